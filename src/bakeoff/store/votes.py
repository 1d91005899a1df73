"""What people and a judge model say about pairs of outputs: votes.jsonl and judge.jsonl of a run folder.

Both are only ever appended to, line by line, and every line is on the disk before it counts. A line holds a hash of the
document and both outputs: if these change, it no longer speaks of them.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bakeoff.store.checksums import sync
from bakeoff.store.documents import Count, Document, Name, Text
from bakeoff.store.files import append_jsonl, read_jsonl
from bakeoff.store.lock import in_turn
from bakeoff.store.run_folder import Folder

NOT_ASKED = "equal outputs: not asked"  # the answer of a judgement that no judge has given
WAIT_SECONDS = 30.0  # for another process that appends
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Choice = Literal["first", "second", "tie", "both bad"]
WORTH = {"first": 1.0, "second": -1.0, "tie": 0.0, "both bad": 0.0}


class PairRow(Document):
    """Two runs' outputs for one test example: `place` is its number in the test split, from 0."""

    first: Name
    second: Name
    first_run: Name
    second_run: Name
    place: Count
    outputs: Hash


class Vote(PairRow):
    """A person's choice. `left` is the output that stood on the left, or above; `note` is the person's."""

    choice: Choice
    left: Literal["first", "second"]
    taster: Annotated[str, Field(max_length=80)]
    note: Annotated[str, Field(max_length=2000)] = ""
    date: Text = ""


class Judgement(PairRow):
    """A judge model's choice with one order of the outputs; null if its answer names none.

    `judge` is a hash of what was asked of which model. `model` and `fingerprint` are what the server says it is.
    """

    judge: Hash
    asked_model: Text
    choice: Choice | None
    left: Literal["first", "second"]
    model: Text = ""
    fingerprint: Text = ""
    answer: Annotated[str, Field(max_length=4000)] = ""
    prompt_tokens: Count = 0
    answer_tokens: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    date: Text = ""


def outputs_hash(document: str, first: str, second: str) -> str:
    """Return the hash that binds a line to what it is about."""
    return hashlib.sha256(json.dumps([document, first, second]).encode()).hexdigest()


def append(folder: Folder, file: Path, row: Document) -> None:
    """Append a line to a file of a run folder, and return once it is on the disk. Processes take turns."""
    with in_turn(folder.made_file.parent, WAIT_SECONDS):
        append_jsonl(file, row.row())
        sync(file)


def read_votes(file: Path) -> list[Vote]:
    """Return all votes; raise SetupError if a line is damaged."""
    return rows(file, Vote)


def read_judgements(file: Path) -> list[Judgement]:
    """Return all judgements; raise SetupError if a line is damaged."""
    return rows(file, Judgement)


def rows(file: Path, kind: Any) -> list[Any]:
    """Return the lines of a file; none if there is no file. An incomplete last line does not count."""
    return list(read_jsonl(file, kind.model_validate_json)) if file.exists() else []

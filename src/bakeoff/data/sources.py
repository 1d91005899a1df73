"""Data sources: a config's `data` section becomes examples, or one line that says which row cannot be used."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bakeoff.config import DataConfig
from bakeoff.data.docstrings import load_docstrings, manifest_findings
from bakeoff.data.examples import Example
from bakeoff.errors import DataError, did_you_mean
from bakeoff.records import SPLITS

Splits = dict[str, list[Example]]


def load_examples(config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the examples of train, validation and test, and findings about them, a line each.

    A limit takes a sample in file order: the examples whose contents hash lowest, so that one more or less of them
    changes no other choice. Raises DataError where a file or row cannot be used.
    """
    findings: list[str] = []
    if config.source == "docstrings":
        splits = load_docstrings()
        findings += manifest_findings(splits)
    else:
        splits = {s: list(read_file(Path(getattr(config, s)), config.document, config.summary)) for s in SPLITS}
    for split in SPLITS:
        if not splits[split]:
            raise DataError(f"data.{split}: {getattr(config, split)}: no examples in it. A bakeoff needs at least one")
        limit = getattr(config, f"{split}_limit")
        if limit is not None and limit < len(splits[split]):
            marks = [hashlib.sha256(f"{e.document}\0{e.summary}".encode()).digest() for e in splits[split]]
            chosen = sorted(range(len(marks)), key=lambda i: (marks[i], i))[:limit]
            splits[split] = [splits[split][i] for i in sorted(chosen)]
        findings += script_findings(split, splits[split])
    return splits, findings


def script_findings(split: str, examples: Sequence[Example]) -> list[str]:
    """Return a line where ROUGE cannot see many summaries: rouge-score reads Latin letters and digits only."""
    unseen = sum(not re.search(r"[a-z0-9]", e.summary.lower()) for e in examples)
    if unseen <= 0.01 * len(examples):
        return []
    return [
        f"data.{split}: {unseen} of {len(examples)} summaries hold no Latin letter or digit, and rouge-score sees "
        "nothing else: their ROUGE is 0 whatever the output. Compare by test loss"
    ]


def read_file(path: Path, document: str, summary: str) -> Iterator[Example]:
    """Yield the rows of a JSONL file as examples; an example's id is its line number."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = parse_line(line, f"{path}:{number}")
                    texts = [text_field(row, column, f"{path}:{number}") for column in (document, summary)]
                    yield Example(id=str(number), document=texts[0], summary=texts[1])
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"data: {path}: no such file. Paths are relative to the config file") from None
    except OSError as error:
        raise DataError(f"data: {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"data: {path}: not UTF-8 text ({error}). Try: iconv -t UTF-8") from None


def parse_line(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object in a line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}). Expected one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def text_field(row: dict[str, Any], column: str, where: str) -> str:
    """Return a row's text; raise DataError where it is missing, no text, or blank."""
    if column not in row:
        raise DataError(f"{where}: no column '{column}'.{did_you_mean(column, row)} Set data.document and data.summary")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(f"{where}: column '{column}' holds {type(value).__name__}, expected text")
    if not value.strip():
        raise DataError(f"{where}: column '{column}' is empty. Remove the row, or fill it")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(
            f"{where}: column '{column}' holds half a surrogate pair, which is no text. Mend its \\u escapes"
        )
    return value


def content_identity(splits: Splits) -> str:
    """Return a hash of every example of every split, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for e in splits[split]:
            digest.update(json.dumps([split, e.document, e.summary], ensure_ascii=False).encode())
    return digest.hexdigest()[:16]


def example_rows(examples: Sequence[Example]) -> Iterator[dict[str, str]]:
    """Yield examples as plain data for a run folder's JSONL."""
    for e in examples:
        yield {"id": e.id, "document": e.document, "summary": e.summary, "group": e.group}

"""What `bakeoff init` proposes for data files: a `data` section that can be planned, and the reasons.

Columns are guessed from the first rows. Then all rows are read, to find and report what would stop a plan.
"""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from bakeoff.config.data import DataConfig
from bakeoff.config.loading import explain
from bakeoff.data.column_guess import guess_columns, look_at, quoted, splits_of
from bakeoff.data.examples import Example
from bakeoff.data.folders import place_of, split_of, splits_in
from bakeoff.data.formats import Table, files_in, first_rows, has_parts, is_text, parts_of
from bakeoff.data.lines import lines_of, wide_name
from bakeoff.data.sources import DROPPED, columns_for, read_splits
from bakeoff.data.splitting import FewError
from bakeoff.data.streams import UTF8, Reading, opened
from bakeoff.errors import DataError
from bakeoff.store.paths import is_folder

SHARES = (None, 0.2, 0.3, 0.4)  # of validation and test: larger ones where there are few documents
AROUND = 30  # characters that are shown beside one that is not UTF-8


class Found(NamedTuple):
    """A section whose rows were read: the examples, and the findings."""

    data: dict[str, Any]
    splits: Mapping[str, Sequence[Example]]
    findings: list[str]

    @property
    def rows(self) -> int:
        """The number of examples."""
        return sum(map(len, self.splits.values()))


@dataclass(frozen=True)
class Proposal:
    """The `data` section, with absolute paths, the reasons, one line each, and the examples that it names.

    `target` is the template of targets, if the summary's text is not one.
    """

    data: dict[str, Any]
    reasons: list[str]
    target: str | None = None
    splits: Mapping[str, Sequence[Example]] = field(default_factory=dict)


def propose(files: Sequence[Path]) -> Proposal:
    """Return the proposal for files, a folder, a workbook or a database.

    Raises ConfigError or DataError if the splits are unclear, or no plan can be made.
    """
    gone = [file for file in files if not file.exists()]
    if gone:
        raise DataError(f"{gone[0]}: no such file. Try: ls {shlex.quote(str(gone[0].parent))}")
    if len(files) == 1 and has_parts(files[0]):
        data, tables, reasons = of_parts(files[0])
    else:
        data, tables, reasons = of_files(files)
    guess = guess_columns(tables, str(files[0]) if "source" in data else str(data["train"]))
    return fitted(Proposal(data | guess.columns, [*reasons, *guess.reasons], guess.target))


def of_files(files: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Table], list[str]]:
    """Return where the splits are, their first rows, and the reasons."""
    folder = place_of(files[0], None) if len(files) == 1 and files[0].is_dir() else None
    splits = splits_in(folder) if folder else {split: [file] for split, file in splits_of(files).items()}
    if folder and "train" in splits:
        data: dict[str, Any] = {"source": folder.resolve()}
    else:
        splits = splits if "train" in splits else {"train": [*files]}
        data = {split: named[0].resolve() for split, named in splits.items()}
    encoding, reason = encoding_of([path for named in splits.values() for path in named])
    tables = {split: first_rows(named, reading=Reading(encoding)) for split, named in splits.items()}
    return data | ({"encoding": encoding} if reason else {}), tables, reason


def of_parts(path: Path) -> tuple[dict[str, Any], dict[str, Table], list[str]]:
    """Return which sheets or tables are the splits, their first rows, and the reasons."""
    parts = parts_of(path)
    tables = {part: first_rows([path], reading=Reading(part=part)) for part in parts}
    named = {split: part for part in reversed(parts) if (split := split_of(part))}
    if "train" in named:
        reasons = [f"{split}: {quoted(part)}, by its name" for split, part in sorted(named.items())]
        return {"source": path.resolve(), **named}, {split: tables[part] for split, part in named.items()}, reasons
    if len(parts) < 2:
        return {"train": path.resolve()}, {"train": first_rows([path])}, []
    fits = [part for part in parts if sum(look_at(n, tables[part].rows) is not None for n in tables[part].columns) > 1]
    chosen = [*fits, *parts][0]
    reason = f"train: {quoted(chosen)}, the first of {len(parts)} sheets or tables that has two columns with texts"
    return {"source": path.resolve(), "train": chosen}, {"train": tables[chosen]}, [reason]


def encoding_of(paths: Sequence[Path]) -> tuple[str, list[str]]:
    """Return the encoding of text files, and why it is not UTF-8."""
    files = (file for path in paths for file in (files_in(path) if is_folder(path) else [path]))
    for path in filter(is_text, files):
        good, bad = 0, None  # lines with more than ASCII that are UTF-8, and the first that is not
        with opened(path) as stream:
            if name := wide_name(stream.read(200)):
                return name.lower(), [f"encoding: {name.lower()}, by the first bytes of {path.name}"]
            stream.seek(0)
            for number, line in enumerate(lines_of(stream), start=1):
                try:
                    good += not line.isascii() and bool(line.decode())
                except UnicodeDecodeError as error:
                    bad, good = bad or (number, line[max(0, error.start - AROUND) : error.start + AROUND]), good - 1
        if bad and good < 0:
            number, shown = bad
            encoding = "latin-1" if any(byte in shown for byte in b"\x81\x8d\x8f\x90\x9d") else "cp1252"
            said = " ".join(shown.decode(encoding).split())
            because = f"because {path.name}:{number} is not UTF-8. With it this line is: {said}"
            return encoding, [f"encoding: {encoding} is a guess, {because}"]
    return UTF8, []


def fitted(proposal: Proposal) -> Proposal:
    """Return the proposal after all rows were read: what cannot be used is dropped, or not proposed, and said.

    Raises DataError if no plan can be made.
    """
    plain = {key: value for key, value in proposal.data.items() if key not in ("id", "group")}
    for data in (proposal.data, plain):
        with suppress(DataError):
            return explained(proposal, read(data, proposal.target))
    best = read({**plain, "unusable": "drop"}, proposal.target)
    with suppress(DataError):
        full = read({**proposal.data, "unusable": "drop"}, proposal.target)
        best = full if full.rows == best.rows else best
    return explained(proposal, best)


def read(data: Mapping[str, Any], target: str | None) -> Found:
    """Return what reading all rows of a section finds; raise DataError if they cannot be used, or are too few."""
    for share in SHARES:
        shares = {f"{split}_share": share for split in ("validation", "test") if split not in data} if share else {}
        config = section({**data, **shares})
        try:
            splits, findings = read_splits(config, columns_for(config, None, target))
        except FewError:
            if share == SHARES[-1]:
                raise
        else:
            return Found({**data, **shares}, splits, findings)
    raise AssertionError("the last share returns or raises")


def explained(proposal: Proposal, found: Found) -> Proposal:
    """Return the proposal of the section that was read, with the reasons that hold for it."""
    left_out = [key for key in ("id", "group") if key in proposal.data and key not in found.data]
    reasons = [reason for reason in proposal.reasons if reason.partition(":")[0] not in left_out]
    reasons += [
        f"unusable: drop, because some rows cannot be used. {line}" for line in found.findings if DROPPED in line
    ]
    larger = [key for key in ("validation_share", "test_share") if key in found.data]
    if larger:
        reasons.append(f"{' and '.join(larger)}: {found.data[larger[0]]}, because there are few documents")
    return Proposal(found.data, reasons, proposal.target, found.splits)


def section(data: Mapping[str, Any]) -> DataConfig:
    """Return the section as a config holds it; raise DataError if a name cannot be in a config."""
    raw = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
    try:
        return DataConfig.model_validate(raw)
    except ValidationError as error:
        raise DataError(explain("data", raw, error)) from None

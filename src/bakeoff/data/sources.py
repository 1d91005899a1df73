"""Data sources: turns the `data` section of a config into examples, or into one line that names the unusable row."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bakeoff.config.data import DataConfig
from bakeoff.config.templates import prompt_template, target_template
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.columns import columns_of
from bakeoff.data.conversations import AnyColumns, conversations_of
from bakeoff.data.docstrings import load_docstrings, manifest_findings
from bakeoff.data.examples import Example
from bakeoff.data.findings import few_groups, look_through
from bakeoff.data.folders import part_of_file, split_in_folder, splits_in
from bakeoff.data.formats import READERS, has_parts
from bakeoff.data.forms import AnyForm
from bakeoff.data.hub_dataset import AbsentError, HubDataset
from bakeoff.data.overlap import Overlap, of
from bakeoff.data.splitting import content_hashes, limited, origins_of, split_off, take
from bakeoff.data.stored import Refusals, StoredExamples, store_files, store_rows
from bakeoff.data.streams import UTF8, Reading, ending_of
from bakeoff.errors import ConfigError, DataError
from bakeoff.store.paths import is_file, is_folder
from bakeoff.store.run_folder import SPLITS

DROPPED = "rows dropped"
Splits = dict[str, Sequence[Example]]
Read = tuple[StoredExamples, Refusals]


def load_examples(
    config: DataConfig, template: str | None = None, target: str | None = None, form: AnyForm | None = None
) -> tuple[Splits, list[str]]:
    """Return the examples of train, validation and test, and findings about them, one line each.

    `template` and `target` are those of the config; conversations are checked by the chat template of `form`. A limit
    takes a sample in file order: the examples whose contents hash lowest, so that one example more or less changes no
    other choice. Raises DataError if a file or row cannot be used.
    """
    findings: list[str] = []
    shared: list[str] = []
    splits: Splits
    if config.source == "docstrings":
        if target or (template and not prompt_template(template).constant):
            raise ConfigError("template: the docstring task has no columns but {{ document }}")
        docstrings = load_docstrings()
        findings += manifest_findings(docstrings)
        splits = {**docstrings}
    else:
        stored, findings = read_splits(config, columns_for(config, template, target, form))
        splits = {**stored}
    empty = next((split for split in SPLITS if not splits[split]), None)
    if empty:
        name = getattr(config, empty) or config.source
        raise DataError(f"data.{empty}: {name}: has no examples. A bakeoff needs at least one")
    for split in ("validation", "test"):
        splits[split] = limited(splits[split], getattr(config, f"{split}_limit"))
    if config.shared_documents == "keep":
        splits["train"] = limited(splits["train"], config.train_limit)
    if config.source != "docstrings":  # which holds no document twice, nor nearly
        shared = apart(splits, config.shared_documents == "drop")
    splits["train"] = limited(splits["train"], config.train_limit)
    groups = few_groups(splits["test"], config.group) if config.group else []
    return splits, [*findings, *look_through(splits), *shared, *groups]


def load_or_count(
    config: DataConfig, template: str | None, target: str | None, must_read: bool, form: AnyForm | None = None
) -> tuple[Splits, list[str], bool]:
    """Return examples, findings, and whether examples were read: a plan only counts a hub dataset that is not here.

    Each split then has as many empty examples as its limit. Raises AbsentError if a limit is missing.
    """
    try:
        return *load_examples(config, template, target, form), True
    except AbsentError as absent:
        limits = {split: getattr(config, f"{split}_limit") for split in SPLITS}
        if must_read or None in limits.values():
            raise
        splits: Splits = {split: [Example(id="", document="-", summary="-")] * limit for split, limit in limits.items()}
        return splits, [f"{absent}. Sizes are those of the limits; nothing was read"], False


def apart(splits: Splits, drop: bool) -> list[str]:
    """Return findings about documents in two splits; with `drop`, remove them from train."""
    shared = Overlap(splits)
    findings = shared.findings(drop)
    if drop and shared.train.any():
        splits["train"] = take(splits["train"], (~shared.train).nonzero()[0])
        findings.append(
            f"data.train: {of(int(shared.train.sum()), len(shared.train))} examples dropped for this reason"
        )
        if not splits["train"]:
            raise DataError("data.train: every document is also in validation or test, and was dropped")
    return findings


def columns_for(
    config: DataConfig, template: str | None, target: str | None, form: AnyForm | None = None
) -> dict[str, AnyColumns]:
    """Return the meaning of columns in each split; only the test split has separate references."""
    if config.conversation is not None:
        chat = form if isinstance(form, ChatForm) else None
        trained = conversations_of(config, references=False, check=chat.check if chat else None)
        tested = conversations_of(config, references=True, check=chat.tested().check if chat else None)
        return {"train": trained, "validation": trained, "test": tested}
    usual = columns_of(
        config.document,
        config.summary,
        prompt_template(template) if template else None,
        target=target_template(target) if target else None,
        id=config.id,
        group=config.group,
    )
    references = config.references or config.summary
    test = replace(
        usual,
        references=(references,) if isinstance(references, str) else tuple(references),
        kept=tuple(config.metric_columns),
    )
    return {"train": usual, "validation": usual, "test": test}


def read_splits(config: DataConfig, columns: dict[str, AnyColumns]) -> tuple[dict[str, StoredExamples], list[str]]:
    """Return the splits of files, a folder or a hub dataset, and one line for each split with rows left out.

    A split without a file is split off train. Raises DataError, which names the split, if one cannot be used.
    """
    splits: dict[str, StoredExamples] = {}
    findings: list[str] = []
    of_path = not config.of_files and (is_folder(config.source) or has_parts(Path(config.source)))
    if of_path and config.revision:
        raise DataError(f"data.revision: {config.revision}: only hub datasets have one, and data.source is a path")
    hub = None if config.of_files or of_path else hub_dataset(config)
    for split in SPLITS:
        try:
            loaded = hub_split(config, hub, split, columns[split]) if hub else file_split(config, split, columns[split])
        except DataError as error:
            raise DataError(f"data.{split}: {error}") from None
        if loaded is None:
            continue
        splits[split], refused = loaded
        if refused.first and (config.unusable == "stop" or refused.total == refused.rows):
            rest = f". Of {refused.rows:,} rows: {refused}" if refused.total > 1 else ""
            if refused.total < refused.rows:
                rest += ". Fix or remove them, or set data.unusable: drop" if rest else ", or set data.unusable: drop"
            raise DataError(f"data.{split}: {refused.first}{rest}")
        if refused.first:
            findings.append(f"data.{split}: {of(refused.total, refused.rows)} {DROPPED}: {refused}")
    shares = {s: getattr(config, f"{s}_share") for s in ("validation", "test") if s not in splits}
    if shares and splits["train"]:
        parts = split_off(splits["train"], shares, config.group)
        by = f"the hash of their group '{config.group}'" if config.group else "the hash of their document"
        counts = ", ".join(f"{len(parts[s]):,} for {s}" for s in SPLITS if s in parts)
        findings.append(f"data: {' and '.join(shares)} split off train by {by}: {counts}")
        splits |= parts
    return splits, findings


def hub_dataset(config: DataConfig) -> HubDataset:
    """Return the hub dataset that a config names; raise DataError if it cannot be one."""
    if is_file(config.source) and ending_of(Path(config.source)) in READERS:
        raise DataError(f"data.source: {config.source}: a file of one table. Set data.train to it, without data.source")
    if config.source.count("/") > 1 or config.source.startswith((".", "/", "~")) or not config.source.strip():
        raise DataError(
            f"data.source: {config.source}: no such folder. Allowed: files, docstrings, a folder, or a hub dataset's id"
        )
    if config.encoding != UTF8:
        raise DataError(f"data.encoding: {config.encoding}: only files have one, and data.source is a hub dataset")
    return HubDataset(config.source, config.config, config.revision)


def hub_split(config: DataConfig, hub: HubDataset, split: str, columns: AnyColumns) -> Read | None:
    """Return a split of a hub dataset, or None if it is missing and is to be split off train."""
    name = getattr(config, split) or hub.split(split)
    if name is None and split != "train":
        return None
    rows = hub.rows(name or "train", columns.names)
    return store_rows(((row, None) for row in rows), f"{hub.name} ({name})", columns)


def file_split(config: DataConfig, split: str, columns: AnyColumns) -> Read | None:
    """Return a split of files, a folder, a workbook or database; None if it is missing, and to be split off train."""
    name, part = getattr(config, split), None
    paths: list[Path] | None
    if config.of_files:
        paths = [Path(name)] if name else None
        inner = list(splits_in(Path(name))) if name and is_folder(name) else []
        if len(inner) > 1:
            raise DataError(f"{name}: contains files for {' and '.join(inner)}. Set data.source to it")
    elif is_folder(config.source):
        paths = split_in_folder(Path(config.source), split, name, config.config)
    else:
        part = part_of_file(Path(config.source), split, name)
        paths = None if part is None else [Path(config.source)]
    if paths is None:
        return None
    beside = Path(config.references_file) if split == "test" and config.references_file else None
    return store_files(paths, columns, beside, Reading(config.encoding, part))


def content_identity(splits: Splits) -> str:
    """Return a hash of every example's texts of every split, in order."""
    return _identity(splits, content_hashes)


def origin_identity(splits: Splits) -> str:
    """Return a hash of every example's id and group of every split, in order."""
    return _identity(splits, origins_of)


def _identity(splits: Splits, hashes: Callable[[Sequence[Example]], NDArray[numpy.uint64]]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(split.encode() + hashes(splits[split]).astype(">u8").tobytes())
    return digest.hexdigest()[:16]

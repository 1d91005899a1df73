"""Data sources: a config's `data` section becomes examples, or one line that says which row cannot be used."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bakeoff.config import DataConfig
from bakeoff.data.docstrings import load_docstrings, manifest_findings
from bakeoff.data.examples import Example
from bakeoff.data.jsonl import Source, StoredExamples, index_examples
from bakeoff.errors import DataError
from bakeoff.records import SPLITS

Splits = dict[str, Sequence[Example]]


def load_examples(config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the examples of train, validation and test, and findings about them, a line each.

    A limit takes a sample in file order: the examples whose contents hash lowest, so that one more or less of them
    changes no other choice. Raises DataError where a file or row cannot be used.
    """
    findings: list[str] = []
    splits: Splits
    if config.source == "docstrings":
        docstrings = load_docstrings()
        findings += manifest_findings(docstrings)
        splits = {**docstrings}
    else:
        splits = {split: index_examples(source_of(config, split)) for split in SPLITS}
    for split in SPLITS:
        if not splits[split]:
            raise DataError(f"data.{split}: {getattr(config, split)}: no examples in it. A bakeoff needs at least one")
        limit = getattr(config, f"{split}_limit")
        if limit is not None and limit < len(splits[split]):
            lowest = numpy.argsort(marks_of(splits[split]), kind="stable")[:limit]
            splits[split] = take(splits[split], numpy.sort(lowest))
        findings += script_findings(split, splits[split])
    return splits, findings


def source_of(config: DataConfig, split: str) -> Source:
    """Return where a split's examples stand; only the test split has references of its own."""
    path, columns = Path(getattr(config, split)), config.references
    if split != "test" or columns is None:
        return Source(path, config.document, (config.summary,))
    beside = Path(config.references_file) if config.references_file else None
    return Source(path, config.document, (columns,) if isinstance(columns, str) else tuple(columns), beside)


def marks_of(examples: Sequence[Example]) -> NDArray[numpy.uint64]:
    """Return every example's mark, (examples,)."""
    if isinstance(examples, StoredExamples):
        return examples.marks
    return numpy.fromiter((e.mark for e in examples), numpy.uint64, len(examples))


def take(examples: Sequence[Example], chosen: NDArray[numpy.int64]) -> Sequence[Example]:
    """Return the examples at these indices."""
    return examples.take(chosen) if isinstance(examples, StoredExamples) else [examples[i] for i in chosen]


def script_findings(split: str, examples: Sequence[Example]) -> list[str]:
    """Return a line where ROUGE cannot see many summaries: rouge-score reads Latin letters and digits only."""
    unseen = sum(not re.search(r"[a-z0-9]", e.summary.lower()) for e in examples)
    if unseen <= 0.01 * len(examples):
        return []
    return [
        f"data.{split}: {unseen} of {len(examples)} summaries hold no Latin letter or digit, and rouge-score sees "
        "nothing else: their ROUGE is 0 whatever the output. Compare by test loss"
    ]


def content_identity(splits: Splits) -> str:
    """Return a hash of every example of every split, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(split.encode() + marks_of(splits[split]).astype(">u8").tobytes())
    return digest.hexdigest()[:16]

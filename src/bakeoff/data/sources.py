"""Data sources: a config's `data` section becomes examples, or one line that says which row cannot be used."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bakeoff.data.docstrings import load_docstrings, manifest_findings
from bakeoff.data.examples import Example, mark_of
from bakeoff.data.jsonl import Source, StoredExamples, index_examples
from bakeoff.errors import DataError
from bakeoff.records import SPLITS
from bakeoff.sections import DataConfig

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
        splits = {split: indexed(config, split) for split in SPLITS}
    documents: dict[str, NDArray[numpy.uint64]] = {}
    for split in SPLITS:
        if not splits[split]:
            raise DataError(f"data.{split}: {getattr(config, split)}: no examples in it. A bakeoff needs at least one")
        limit = getattr(config, f"{split}_limit")
        if limit is not None and limit < len(splits[split]):
            lowest = numpy.argsort(marks_of(splits[split]), kind="stable")[:limit]
            splits[split] = take(splits[split], numpy.sort(lowest))
        documents[split], found = look_through(split, splits[split])
        findings += found
    return splits, findings + shared_findings(documents)


def indexed(config: DataConfig, split: str) -> StoredExamples:
    """Return the examples of a split's files; raise DataError, which names the split, where one cannot be used."""
    try:
        return index_examples(source_of(config, split))
    except DataError as error:
        raise DataError(f"data.{split}: {error}") from None


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


def look_through(split: str, examples: Sequence[Example]) -> tuple[NDArray[numpy.uint64], list[str]]:
    """Return the marks of the documents alone, (examples,), and findings about a split's rows.

    rouge-score reads Latin letters and digits only.
    """
    documents = numpy.empty(len(examples), numpy.uint64)
    unseen = copied = 0
    for i, example in enumerate(examples):
        document, summary = example.document.strip(), example.summary.strip()
        documents[i] = mark_of(document)
        copied += document == summary
        unseen += not re.search(r"[a-z0-9]", summary.lower())
    rows = len(examples)
    repeated = rows - len(numpy.unique(marks_of(examples)))
    findings = []
    if repeated:
        findings.append(f"data.{split}: {of(repeated, rows)} rows repeat another one, document and summary alike")
    if copied:
        findings.append(f"data.{split}: {of(copied, rows)} rows have their whole document as summary")
    if unseen > 0.01 * rows:
        findings.append(
            f"data.{split}: {unseen} of {rows} summaries hold no Latin letter or digit, and rouge-score sees "
            "nothing else: their ROUGE is 0 whatever the output. Compare by test loss"
        )
    return documents, findings


def shared_findings(documents: dict[str, NDArray[numpy.uint64]]) -> list[str]:
    """Return a line for each two splits with documents in common, by the documents' marks."""
    findings = []
    for first, second in (("train", "test"), ("validation", "test"), ("train", "validation")):
        shared = int(numpy.isin(documents[second], documents[first]).sum())
        if shared:
            text = f"data: {of(shared, len(documents[second]))} {second} documents stand in {first} too"
            scores = ", so test scores tell what was remembered, not what was learnt. Remove them from train"
            findings.append(text + (scores if (first, second) == ("train", "test") else ""))
    return findings


def of(part: int, whole: int) -> str:
    """Return a count, what it is of, and its share."""
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


def content_identity(splits: Splits) -> str:
    """Return a hash of every example of every split, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(split.encode() + marks_of(splits[split]).astype(">u8").tobytes())
    return digest.hexdigest()[:16]

"""Examples as token ids: template, truncation of documents, and what was cut.

Every entry of a bakeoff sees exactly these tokens. The summary and its end-of-text token always fit: only documents
are cut, and the share of cut documents is part of the record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from bakeoff.data.examples import Example
from bakeoff.errors import DataError


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example as ids: `prompt` (template and document) and `target` (summary and end-of-text)."""

    id: str
    prompt: list[int]
    target: list[int]
    cut: bool

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def encode(
    examples: Sequence[Example], tokenizer: Any, template: str, max_tokens: int, output_tokens: int, where: str
) -> list[Tokens]:
    """Return the examples' ids, each at most `max_tokens` long; raise DataError where a summary alone is longer.

    A document is cut so that its summary fits, and so that `output_tokens` can be generated after it. Template
    parts, document and summary are tokenized apart, so that where the document is cut changes no other token.
    """
    before, after = template.split("{{ document }}")
    head, tail = (_ids(tokenizer, [part])[0] if part else [] for part in (before, after))
    documents = _ids(tokenizer, [e.document for e in examples])
    rows = []
    for example, document, target in zip(examples, documents, encode_targets(examples, tokenizer), strict=True):
        room = max_tokens - len(head) - len(tail) - max(len(target), output_tokens)
        if room < 1:
            raise DataError(
                f"{where}: example '{example.id}': {len(target)} tokens of summary and {output_tokens} of output leave "
                f"no room for the document in protocol.max_tokens={max_tokens}. Raise it, or shorten the summary"
            )
        rows.append(Tokens(example.id, head + document[:room] + tail, target, len(document) > room))
    return rows


def encode_targets(examples: Sequence[Example], tokenizer: Any) -> list[list[int]]:
    """Return each summary's ids: a leading space, the text, end-of-text."""
    texts = _ids(tokenizer, [" " + e.summary.strip() for e in examples])
    return [[*ids, tokenizer.eos_token_id] for ids in texts]


def longest_output(targets: Sequence[Sequence[int]]) -> int:
    """Return the 99th percentile of the targets' lengths in tokens (protocol rule 5)."""
    return int(numpy.ceil(numpy.percentile([len(ids) for ids in targets], 99)))


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def statistics(rows: Sequence[Tokens]) -> dict[str, float]:
    """Return what the record says of a split: examples, share of cut documents, mean lengths in tokens."""
    return {
        "examples": len(rows),
        "cut_documents": sum(r.cut for r in rows) / len(rows),
        "prompt_tokens_mean": sum(len(r.prompt) for r in rows) / len(rows),
        "target_tokens_mean": sum(len(r.target) for r in rows) / len(rows),
    }


def save_tokens(path: Path, rows: Sequence[Tokens]) -> None:
    """Write rows as one .npz: all ids in a row, and how long each prompt and target is."""
    numpy.savez(
        path,
        ids=numpy.array([i for row in rows for i in row.prompt + row.target], dtype=numpy.int32),
        prompts=numpy.array([len(row.prompt) for row in rows], dtype=numpy.int32),
        targets=numpy.array([len(row.target) for row in rows], dtype=numpy.int32),
        cut=numpy.array([row.cut for row in rows]),
        names=numpy.array([row.id for row in rows]),
    )


def load_tokens(path: Path) -> list[Tokens]:
    """Return the rows that `save_tokens` wrote."""
    with numpy.load(path, allow_pickle=False) as file:
        ids, prompts, targets, cut, names = (file[k].tolist() for k in ("ids", "prompts", "targets", "cut", "names"))
    rows, at = [], 0
    for prompt, target, was_cut, name in zip(prompts, targets, cut, names, strict=True):
        rows.append(Tokens(name, ids[at : at + prompt], ids[at + prompt : at + prompt + target], was_cut))
        at += prompt + target
    return rows

"""Examples as token ids: the template, and the cutting of documents.

Every entry of a bakeoff sees exactly these tokens (protocol rule 1). Documents are cut so that the summary and its
end-of-text token fit; the record has the share of cut documents. A summary that leaves no room for a document is cut
itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy
from numpy.typing import NDArray

from bakeoff.data.examples import Example
from bakeoff.data.fitting import fitted, parts_of
from bakeoff.data.forms import AnyForm
from bakeoff.errors import DataError

# How much text goes through the tokenizer at once: what it holds meanwhile is some hundred bytes a token.
CHUNK_EXAMPLES = 1000
CHUNK_CHARACTERS = 1_000_000
BARS = 24  # of a histogram

Ints = NDArray[numpy.int32]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example as ids: `prompt` (template and document) and `target` (summary and end-of-text).

    `cut` tokens of the document were left out; the prompt has `head` tokens before the document and `tail` after it.
    `gaps` are spans of the target that are given and not trained: the turns between the answers of a conversation.
    """

    prompt: list[int]
    target: list[int]
    cut: int = 0
    head: int = 0
    tail: int = 0
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def trained(self) -> list[int]:
        """The places in the target of the tokens that are trained."""
        if not self.gaps:
            return list(range(len(self.target)))
        given = {place for gap in self.gaps for place in range(*gap)}
        return [place for place in range(len(self.target)) if place not in given]

    @property
    def kept(self) -> int:
        """The number of tokens of the document that are in the prompt."""
        return len(self.prompt) - self.head - self.tail

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class Lengths:
    """The lengths of a split's rows, (rows,) each: the number of tokens of each part, as in `Tokens`."""

    prompts: Ints
    targets: Ints
    cut: Ints
    heads: Ints
    tails: Ints
    gaps: Ints

    @property
    def trained(self) -> Ints:
        """Tokens of the target that are trained."""
        return self.targets - self.gaps

    @property
    def totals(self) -> Ints:
        """Tokens of prompt and target together."""
        return self.prompts + self.targets

    @property
    def documents(self) -> Ints:
        """Tokens of complete documents, with those that were cut."""
        return self.prompts - self.heads - self.tails + self.cut

    def take(self, chosen: Any) -> "Lengths":
        """Return the lengths of some of the rows."""
        return Lengths(*(getattr(self, field.name)[chosen] for field in fields(self)))


def encode(
    examples: Iterable[Example], form: AnyForm, max_tokens: int, output_tokens: int, where: str
) -> Iterator[Tokens]:
    """Yield the examples' ids; raise DataError if `output_tokens` leave no room for a document in `max_tokens`.

    A causal base reads prompt and target one after the other: a document is cut so that its summary fits into
    `max_tokens`, and so that `output_tokens` can be generated after it. An encoder-decoder has `max_tokens` for each. A
    target that leaves no room for one token of its document is cut to `output_tokens`, without an end. Cutting the
    document changes no other token.
    """
    for chunk in _chunks(examples):
        for example, parts in zip(chunk, parts_of(chunk, form, examples, where), strict=True):
            if example.turns:
                newest, cut = fitted(example, parts, form, max_tokens, output_tokens, where)
                yield Tokens([*newest.head, *newest.document, *newest.tail], newest.target, cut, gaps=newest.gaps)
                continue
            head, document, tail, target = parts.head, parts.document, parts.tail, parts.target
            fixed = len(head) + len(tail)
            longest = max_tokens if form.encoder_decoder else max_tokens - fixed - 1
            if output_tokens > longest or fixed >= max_tokens:
                own = example.around is not None and fixed > output_tokens
                cause = (
                    f"{fixed} tokens of template. Shorten the template"
                    if own
                    else f"outputs of {output_tokens} tokens. Lower generation.max_new_tokens"
                )
                row = f"example '{example.id}': " if own else ""
                raise DataError(
                    f"{where}: {row}no room for the document in {max_tokens} tokens beside {cause}, or raise "
                    "protocol.max_tokens as far as the model's context allows"
                )
            kept = target if len(target) <= longest else target[:output_tokens]
            room = max_tokens - fixed - (0 if form.encoder_decoder else max(len(kept), output_tokens))
            cut = max(0, len(document) - room)
            yield Tokens([*head, *document[:room], *tail], kept, cut, len(head), len(tail))


def target_lengths(examples: Iterable[Example], form: AnyForm) -> Ints:
    """Return the length in tokens of each summary with its end-of-text, (examples,)."""
    summaries = ([e.summary for e in chunk] for chunk in _chunks(examples))
    return numpy.fromiter((len(ids) for part in summaries for ids in form.targets(part)), numpy.int32)


def longest_output(targets: Ints, form: AnyForm, max_tokens: int, widest: int = 0) -> int:
    """Return the 99th percentile of the targets' lengths in tokens.

    If that leaves no room for a document, return half of the tokens that the template leaves, in the row where it is
    `widest`.
    """
    usual = int(numpy.ceil(numpy.percentile(targets, 99)))
    if form.encoder_decoder:
        return min(usual, max_tokens)
    (head, tail), *_ = form.around([Example("", "-", "-")])
    room = max_tokens - len(head) - len(tail)
    longest = usual if usual < room else max(1, room // 2)
    return longest if longest < max_tokens - widest else max(1, (max_tokens - widest) // 2)


def widest_template(examples: Iterable[Example], form: AnyForm) -> int:
    """Return the most tokens that the template has in a row; 0 if it is the same for all rows."""
    own = (chunk for chunk in _chunks(examples) if any(e.around for e in chunk))
    return max((len(head) + len(tail) for chunk in own for head, tail in form.around(chunk)), default=0)


def excess(examples: Iterable[Example], form: AnyForm, max_tokens: int) -> Ints:
    """Return by how many tokens each target is too long to leave room for a document, (examples,); 0 if it is not."""

    def rows() -> Iterator[int]:
        for chunk in _chunks(examples):
            targets = form.targets([e.summary for e in chunk])
            for (head, tail), target in zip(form.around(chunk), targets, strict=True):
                longest = max_tokens if form.encoder_decoder else max_tokens - len(head) - len(tail) - 1
                yield max(0, len(target) - longest)

    return numpy.fromiter(rows(), numpy.int32)


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    characters = 0
    for example in examples:
        chunk.append(example)
        characters += len(example.document) + len(example.summary) + sum(map(len, example.around or ()))
        if len(chunk) == CHUNK_EXAMPLES or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def statistics(lengths: Lengths) -> dict[str, Any]:
    """Return what the record says about a split.

    This is the number of examples, the shares of cut documents and of their tokens that were cut, mean lengths in
    tokens, and histograms of complete documents and of targets.
    """
    documents = lengths.documents
    return {
        "examples": len(lengths.cut),
        "cut_documents": float((lengths.cut > 0).mean()),
        "cut_tokens": float(lengths.cut.sum() / max(1, documents.sum(dtype=numpy.int64))),
        "prompt_tokens_mean": float(lengths.prompts.mean()),
        "target_tokens_mean": float(lengths.trained.mean()),
        "document_lengths": histogram(documents),
        "target_lengths": histogram(lengths.trained),
    }


def histogram(lengths: Ints) -> dict[str, Any]:
    """Return the median, 99th percentile and maximum of lengths, and counts in equal bins.

    The last bin also counts the longest 1 %.
    """
    top = max(1, int(numpy.ceil(numpy.percentile(lengths, 99))))
    counts, edges = numpy.histogram(numpy.minimum(lengths, top), bins=min(BARS, top), range=(0, top))
    return {
        "median": float(numpy.median(lengths)), "p99": top, "longest": int(lengths.max()),
        "edges": edges.tolist(), "counts": counts.tolist(),
    }  # fmt: skip

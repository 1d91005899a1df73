"""Checks the base's tokenizer on the texts: which it cannot write, which change, and which were cut."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy

from bakeoff.data.chat_form import ChatForm
from bakeoff.data.chat_parity import parity
from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm
from bakeoff.data.overlap import of
from bakeoff.data.prompt_format import special_tokens
from bakeoff.data.token_file import StoredTokens
from bakeoff.data.tokens import Ints, target_lengths
from bakeoff.errors import DataError
from bakeoff.store.run_folder import SPLITS

TRIED = 200  # targets of a split that are written and read back, evenly spaced
MOSTLY = 0.5  # a share of unknown tokens that leaves nothing to learn
SEEN = 0.001  # a share that is told
BLOCK = 1000  # rows whose ids are read at once
CONTEXT = 12  # characters around a difference that are shown
INDENT, SPECIAL = "indent", "special tokens"


@dataclass
class Marked:
    """Texts that need care: how many targets begin with white space, and how many rows contain each special token."""

    indented: int = 0
    special: dict[str, int] = field(default_factory=dict)

    @property
    def marks(self) -> list[str]:
        """Which of the two occur, for the ids of runs: bakeoff once read such texts differently (design/data.md)."""
        return [mark for mark, there in ((INDENT, self.indented), (SPECIAL, self.special)) if there]


def marked(splits: Mapping[str, Sequence[Example]], form: AnyForm) -> Marked:
    """Return which texts of all splits need care."""
    texts = Marked()
    tokens = sorted(set(special_tokens(form.tokenizer).values()), key=lambda token: (-len(token), token))
    special = re.compile("|".join(map(re.escape, tokens)))  # some bases have hundreds: all are looked for at once
    for split in SPLITS:
        for example in splits[split]:
            texts.indented += example.summary[:1].isspace()
            around = () if form.parsed else example.around or ()
            for token in {*special.findall("\0".join((example.source, example.summary, *around)))}:
                texts.special[token] = texts.special.get(token, 0) + 1
    return texts


def look_at_tokens(
    splits: Mapping[str, Sequence[Example]], tokens: Mapping[str, StoredTokens], form: AnyForm, marked_texts: Marked,
    output_tokens: int,
) -> list[str]:  # fmt: skip
    """Return findings; raise DataError if the tokenizer cannot write most of a split's targets."""
    lines = [
        f"data: {count:,} rows contain '{token}' in their texts, which is read as plain text, not as the special token"
        for token, count in marked_texts.special.items()
    ]
    for split in SPLITS:
        where, rows = f"data.{split}", tokens[split]
        counted = count(rows, form)
        if counted.unknown_targets > MOSTLY:
            raise DataError(
                f"{where}: {counted.unknown_targets:.0%} of the targets' tokens are unknown to the model's tokenizer "
                f"({form.tokenizer.unk_token}): it cannot write them. Try: a base that was trained on such texts"
            )
        if max(counted.unknown_documents, counted.unknown_targets) > SEEN:
            lines.append(
                f"{where}: {counted.unknown_documents:.1%} of the documents' tokens and "
                f"{counted.unknown_targets:.1%} of the targets' are unknown to the model's tokenizer "
                f"({form.tokenizer.unk_token}): they all look the same to the model"
            )
        if counted.cut_targets:
            lines.append(
                f"{where}: {of(counted.cut_targets, len(rows))} targets leave no room for a document and are cut to "
                f"{output_tokens} tokens, the longest output (data.long_targets: cut, drop or stop). Raise "
                f"protocol.max_tokens as far as the context allows"
            )
        if isinstance(form, ChatForm):
            lines += parity(where, splits[split], rows, form.tested() if split == "test" else form)
        if split != "validation":
            lines += round_trip(where, splits[split], form)
    return lines


@dataclass(frozen=True)
class Counted:
    """Shares of unknown tokens in a split's documents and targets, and how many targets have no end."""

    unknown_documents: float
    unknown_targets: float
    cut_targets: int


def count(rows: StoredTokens, form: AnyForm) -> Counted:
    """Return what a split's ids show."""
    tokenizer = form.tokenizer
    unknown, space = tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids("\u2581")  # which stands before a word
    unknown = None if unknown in (*form.target_end, *form.target_begin) else unknown  # GPT-2's is its end, too
    end = form.target_end[-1]
    cut, documents, targets = 0, [0, 0], [0, 0]  # unknown, and all
    for ids, part in rows.blocks(BLOCK):
        ends = numpy.cumsum(part.totals)
        cut += int((ids[ends - 1] != end).sum())
        if unknown is not None:
            places = numpy.arange(len(ids)) - numpy.repeat(ends - part.totals, part.totals)  # of each id in its row
            prompts, heads, tails = (numpy.repeat(n, part.totals) for n in (part.prompts, part.heads, part.tails))
            missing, text = ids == unknown, ((ids != space) | (ids == unknown)) & (ids >= 0)
            for counts, there in (
                (documents, (places >= heads) & (places < prompts - tails)),
                (targets, (places >= prompts) & (ids != end)),
            ):
                counts[0] += int((missing & there).sum())
                counts[1] += int((text & there).sum())
    return Counted(documents[0] / max(1, documents[1]), targets[0] / max(1, targets[1]), cut)


def round_trip(where: str, examples: Sequence[Example], form: AnyForm) -> list[str]:
    """Return a finding if targets change when they are encoded and decoded."""
    every = max(1, len(examples) // TRIED)
    texts = [example.summary.rstrip() for example in spaced(examples, every)]
    again = form.texts(form.targets(texts), indented=True)
    changed = [(text, back) for text, back in zip(texts, again, strict=True) if text != back]
    if not changed:
        return []
    before, after = difference(*changed[0])
    return [
        f"{where}: {of(len(changed), len(texts))} targets (of those tried) change when the model's tokenizer encodes "
        f"and decodes them: {before!r} as {after!r}. So no output can equal such a target"
    ]


def spaced(examples: Sequence[Example], every: int) -> Iterator[Example]:
    """Yield every `every`th example, from the first on, at most TRIED."""
    return (examples[i] for i in range(0, min(len(examples), TRIED * every), every))


def difference(one: str, other: str) -> tuple[str, str]:
    """Return both texts around the first character that differs."""
    at = next(i for i, (a, b) in enumerate(zip_longest(one, other)) if a != b)
    start = max(0, at - CONTEXT)
    return one[start : at + CONTEXT], other[start : at + CONTEXT]


def whole_lengths(rows: StoredTokens, examples: Sequence[Example], form: AnyForm) -> Ints:
    """Return the lengths of a split's last answers before any was cut; texts are read only if ids do not show them."""
    unknown = count(rows, form).cut_targets or rows.lengths.gaps.any()
    return target_lengths(examples, form) if unknown else rows.lengths.targets

"""Rendered conversations as token ids: the template's own tokens are read as tokens, the same texts in turns are not.

Texts without such tokens get exactly the ids of the tokenizer's apply_chat_template, others those that it gives with
`sanitize_control_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy
from numpy.typing import NDArray

from bakeoff.library_errors import one_line

WHOLE = "Try: a whole model folder"
LINE = "\n"
Span = tuple[int, int]


@dataclass(frozen=True)
class Text:
    """A text that becomes token ids; its spans `literal` are read as plain text, also special tokens in them."""

    text: str
    literal: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Ids:
    """The token ids of a text, and the place in the text where each of them ends, (ids,), in ascending order."""

    ids: list[int]
    ends: NDArray[numpy.int64]

    def until(self, character: int) -> int:
        """Return how many of the ids end within the text's first characters."""
        return int(numpy.searchsorted(self.ends, character, side="right"))


def text_ids(tokenizer: Any, texts: Sequence[Text]) -> list[Ids]:
    """Return the ids of texts; raise SetupError if the tokenizer cannot encode one."""
    plain = list(dict.fromkeys(text.text for text in texts if not text.literal))
    with one_line(f"{tokenizer.name_or_path}: its tokenizer cannot encode a text", WHOLE):
        found = dict(zip(plain, parsed(tokenizer, plain), strict=True))
        return [in_pieces(tokenizer, text) if text.literal else found[text.text] for text in texts]


def parsed(tokenizer: Any, texts: list[str]) -> list[Ids]:
    """Return the ids of texts in which special tokens are read as such."""
    if not texts:
        return []
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    out = tokenizer(texts, return_offsets_mapping=True, **options)
    return [
        Ids(ids, numpy.fromiter(accumulate((end for _, end in offsets), max), numpy.int64, len(ids)))
        for ids, offsets in zip(out["input_ids"], out["offset_mapping"], strict=True)
    ]


def continued(tokenizer: Any, text: Text) -> list[int]:
    """Return the ids of a text that comes after another."""
    return in_pieces(tokenizer, text, middle=True).ids


def in_pieces(tokenizer: Any, text: Text, middle: bool = False) -> Ids:
    """Return the ids of a text whose literal parts are read apart from the others; `middle`: another comes before."""
    edges = [0, *(edge for span in text.literal for edge in span), len(text.text)]
    ids: list[int] = []
    ends: list[int] = []
    for number, (start, end) in enumerate(pairwise(edges)):
        piece = text.text[start:end]
        if not piece:
            continue
        if number % 2:
            own = without_tokens(tokenizer, piece)
            found = Ids(own, numpy.full(len(own), end - start, numpy.int64))
        else:
            found = after_line(tokenizer, piece) if number or middle else parsed(tokenizer, [piece])[0]
        ids += found.ids
        ends += [start + place for place in found.ends.tolist()]
    return Ids(ids, numpy.array(ends, numpy.int64))


def after_line(tokenizer: Any, piece: str) -> Ids:
    """Return the ids of a piece from the middle of a text: some tokenizers put a space before a text's beginning."""
    line, whole, alone = parsed(tokenizer, [LINE, LINE + piece, piece])
    count = len(line.ids)
    if whole.ids[:count] != line.ids:
        return alone
    return Ids(whole.ids[count:], whole.ends[count:] - len(LINE))


def without_tokens(tokenizer: Any, piece: str) -> list[int]:
    """Return the ids of a piece from the middle of a text in which no added token is looked for, special or not."""
    line, whole, alone = (unadded(tokenizer, text) for text in (LINE, LINE + piece, piece))
    return whole[len(line) :] if whole[: len(line)] == line else alone


def unadded(tokenizer: Any, text: str) -> list[int]:
    """Return a text's ids from the tokenizer's model alone."""
    own = tokenizer.backend_tokenizer
    text = own.normalizer.normalize_str(text) if own.normalizer else text
    words = [word for word, _ in own.pre_tokenizer.pre_tokenize_str(text)] if own.pre_tokenizer else [text]
    return [token.id for word in words for token in own.model.tokenize(word)]

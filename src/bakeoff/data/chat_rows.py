"""Conversations as rows of ids, in which the answers to be trained are known."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bakeoff.data.chat_ids import Ids, Span, Text, continued


@dataclass(frozen=True)
class ChatRow:
    """A conversation as ids: a `prompt`, of which `document` is a span, then all until the end of the last answer.

    `gaps` are the spans of `target` between the answers, which are given and not trained. `clean`: the conversation as
    one text has the same ids.
    """

    prompt: list[int]
    document: Span
    target: list[int]
    gaps: tuple[Span, ...]
    clean: bool


@dataclass(frozen=True)
class LaidOut:
    """A rendered conversation with the places in it where its parts begin and end.

    `tokens` are the beginnings of the template's tokens, `edges` the spans of the trained answers, `added_end` an id
    that ends each answer if the template writes none.
    """

    text: str
    literal: tuple[Span, ...]
    tokens: list[int]
    edges: list[Span]
    document: Span
    added_end: int | None

    def texts(self) -> list[Text]:
        """Return the texts whose ids `row` needs: the prompt, then for each further part what comes before, and both.

        A tokenizer reads what is before a token of the template apart from what follows; so the last token before a
        part is where reading has to begin.
        """
        first, parts = self.edges[0][0], pairwise(edge for span in self.edges for edge in span)
        texts = [self._cut(0, first)]
        for start, end in parts:
            begin = self.tokens[place - 1] if (place := bisect_left(self.tokens, start)) else 0
            texts += [self._cut(begin, start), self._cut(begin, end)]
        return texts

    def _cut(self, start: int, end: int) -> Text:
        inside = [(a - start, b - start) for a, b in self.literal if a >= start and b <= end] if self.literal else []
        return Text(self.text[start:end], tuple(inside))

    def row(self, tokenizer: Any, ids: Sequence[Ids]) -> ChatRow:
        """Return the row of the ids of `texts`."""
        prompt, clean = ids[0], True
        target: list[int] = []
        gaps: list[Span] = []
        parts = [*pairwise(edge for span in self.edges for edge in span)]
        for number, ((start, end), before, both) in enumerate(zip(parts, ids[1::2], ids[2::2], strict=True)):
            own = both.ids[len(before.ids) :]
            if both.ids[: len(before.ids)] != before.ids:
                own, clean = continued(tokenizer, self._cut(start, end)), False
            if number % 2:
                gaps.append((len(target), len(target) + len(own)))
            elif self.added_end is not None:
                own = [*own, self.added_end]
            target += own
        span = prompt.until(self.document[0]), prompt.until(self.document[1])
        return ChatRow(prompt.ids, span, target, tuple(gaps), clean)

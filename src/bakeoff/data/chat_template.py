"""A base's chat template: conversations as text, and where in it each turn's own text is.

The template is rendered for each conversation as it is. To find the texts of its turns in the result, the
template is also rendered with marks in their place, once for each order of roles.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from bakeoff.config.chat import ChatConfig
from bakeoff.config.chat_sandbox import ChatTemplate
from bakeoff.config.sandbox import TemplateError
from bakeoff.data.examples import ASSISTANT, USER, Turn

MARK = "\ue000turn {}\ue001"  # in place of a turn's text
Span = tuple[int, int]  # of characters, its end excluded


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the span of each turn's own text in it."""

    text: str
    spans: tuple[Span, ...]


class Renderer:
    """Renders conversations with the chat template of a tokenizer.

    `control` are the tokens by which a text could pass for a part of the template: the special ones, and the added ones
    that the template writes itself. Raises TemplateError if the tokenizer's template cannot be used.
    """

    def __init__(self, tokenizer: Any, chat: ChatConfig):
        self.source = template_of(tokenizer)
        self.template = ChatTemplate(self.source, chat.date)
        self.values = {**tokenizer.special_tokens_map, **chat.kwargs}
        self.layout = lru_cache(maxsize=64)(self._layout)
        written = "".join(self.layout((USER,), True) + self.layout((USER, ASSISTANT, USER), True))
        added = tokenizer.added_tokens_decoder
        special = {*tokenizer.all_special_tokens, *(token.content for token in added.values() if token.special)}
        others = {token.content for token in added.values() if token.content in written}
        tokens = sorted((text for text in special | others if text.strip()), key=lambda text: (-len(text), text))
        self.control = tuple(tokens)
        self._tokens = re.compile("|".join(map(re.escape, tokens)) or "(?!)")

    def text(self, messages: Sequence[Turn], generation_prompt: bool) -> str:
        """Return a conversation as text; raise TemplateError if the template refuses it."""
        given = [{"role": role, "content": content} for role, content in messages]
        return self.template.render(given, self.values, generation_prompt)

    def _layout(self, roles: tuple[str, ...], generation_prompt: bool) -> tuple[str, ...]:
        """Return what the template writes before, between and after turns of these roles, (turns + 1,)."""
        marks = [MARK.format(number) for number in range(len(roles))]
        rest, pieces = self.text([*zip(roles, marks, strict=True)], generation_prompt), []
        for number, mark in enumerate(marks):
            if rest.count(mark) != 1:
                how = "leaves out" if mark not in rest else "repeats"
                raise TemplateError(f"{how} the text of turn {number + 1} ({roles[number]})")
            before, _, rest = rest.partition(mark)
            pieces.append(before)
        return (*pieces, rest)

    def prompt(self, messages: Sequence[Turn]) -> Rendered:
        """Return turns with the generation prompt; raise TemplateError if the places of their texts cannot be known."""
        text = self.text(messages, True)
        pieces = self.layout(tuple(role for role, _ in messages), True)
        spans: list[Span] = []
        at = len(pieces[0])
        same = text.startswith(pieces[0])
        for number, ((role, content), piece) in enumerate(zip(messages, pieces[1:], strict=True), 1):
            tried = (content, content.strip(), content.rstrip(), content.lstrip())
            own = next((t for t in tried if text.startswith(t + piece, at)), None) if same else None
            if own is None and role == ASSISTANT and piece and same and not self.controls_in(content):
                place = text.find(piece, at)
                own = text[at:place] if place >= at else None
            if own is None:
                raise TemplateError(f"changes the text of turn {number} ({role}), so its place is not known")
            spans.append((at, at + len(own)))
            at += len(own) + len(piece)
        if at != len(text):
            raise TemplateError("writes different text around the turns for different contents")
        return Rendered(text, tuple(spans))

    def whole(self, messages: Sequence[Turn]) -> Rendered:
        """Return turns that end with an answer; raise TemplateError if it does not follow its prompt."""
        *given, _ = messages
        prompt, text = self.prompt(given), self.text(messages, False)
        after = self.layout(tuple(role for role, _ in messages), False)[-1]
        start, end = len(prompt.text), len(text) - len(after)
        if not text.startswith(prompt.text) or not text.endswith(after) or start > end:
            raise TemplateError("changes a prompt when it has an answer")
        lead = self.lead
        start += len(lead) if text.startswith(lead, start) and start + len(lead) <= end else 0
        return Rendered(text, (*prompt.spans, (start, end)))

    @cached_property
    def lead(self) -> str:
        """What the template writes between the generation prompt and an answer."""
        return self.layout((USER, ASSISTANT), False)[1].removeprefix(self.layout((USER,), True)[1])

    def controls_in(self, text: str) -> list[Span]:
        """Return the spans of the template's tokens in a text; of tokens that begin at one place, the longest."""
        return [found.span() for found in self._tokens.finditer(text)]


def template_of(tokenizer: Any) -> str:
    """Return the source of a tokenizer's chat template; raise TemplateError if none of several is the default."""
    templates = tokenizer.chat_template
    if isinstance(templates, Mapping):
        if "default" not in templates:
            raise TemplateError(f"has several versions, and none is named default ({', '.join(sorted(templates))})")
        return templates["default"]
    return templates

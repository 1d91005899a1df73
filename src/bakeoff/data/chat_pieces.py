"""What a chat template writes around turns, as fixed texts, for programs that do not run the template itself."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from bakeoff.config.sandbox import TemplateError
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.chat_template import MARK, Renderer
from bakeoff.data.examples import ASSISTANT, SYSTEM, USER, Turn

Orders = Collection[tuple[str, ...]]


@dataclass(frozen=True)
class Pieces:
    """The text at the beginning, those before and after the texts of each role, and the one that asks for an answer."""

    begin: str
    roles: dict[str, tuple[str, str]]
    ask: str

    def text(self, turns: Sequence[Turn]) -> str:
        """Return turns as text; raise KeyError for a role that has no texts."""
        return self.begin + "".join(text.join(self.roles[role]) for role, text in turns) + self.ask


def pieces_of(renderer: Renderer, orders: Orders) -> Pieces | None:
    """Return the pieces, or None if the template does not write them for each of these orders of roles."""
    try:
        (first, last), (_, unasked) = (renderer.layout((USER,), asks) for asks in (True, False))
        _, answered, again, _ = renderer.layout((USER, ASSISTANT, USER), True)
        after = beginning(renderer, beginning(renderer, last, unasked), answered)
        before = end(renderer, first, again)
        begin = first.removesuffix(before)
        roles = {USER: (before, after), ASSISTANT: (answered.removeprefix(after), again.removesuffix(before))}
        pieces = Pieces(begin, roles, last.removeprefix(after))
        if any(SYSTEM in order for order in orders):
            start, middle, _ = renderer.layout((SYSTEM, USER), True)
            roles[SYSTEM] = start.removeprefix(begin), middle.removesuffix(before)
        fits = all(pieces.text(marked(order)) == renderer.text(marked(order), True) for order in orders)
    except (KeyError, TemplateError):
        return None
    return pieces if fits else None


def beginning(renderer: Renderer, one: str, other: str) -> str:
    """Return what both texts begin with, in whole tokens of the template."""
    length = same(one, other)
    while any(first < length < last for text in (one, other) for first, last in renderer.controls_in(text)):
        length -= 1
    return one[:length]


def end(renderer: Renderer, one: str, other: str) -> str:
    """Return what both texts end with, in whole tokens of the template."""
    length = same(one[::-1], other[::-1])
    while any(first < len(text) - length < last for text in (one, other) for first, last in renderer.controls_in(text)):
        length -= 1
    return one[len(one) - length :]


def same(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def marked(order: Sequence[str]) -> list[Turn]:
    """Return turns of these roles with marks as texts."""
    return [(role, MARK.format(number)) for number, role in enumerate(order)]


def around(form: ChatForm) -> tuple[str, str]:
    """Return the texts before and after the document in a prompt, where they are the same for all documents."""
    mark, (before, after) = MARK.format(0), form.constant
    text = form.renderer.text([*form.system, (USER, f"{before}{mark}{after}")], True)
    start, _, end = text.partition(mark)
    return start, end


def added_first(tokenizer: Any) -> str:
    """Return the text of the token that the tokenizer puts before a text by itself; empty if there is none."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token if tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] else ""

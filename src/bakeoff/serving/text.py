"""An output's text while its tokens come: what is sure already, stop texts, and what the evaluation would show."""

import re
from collections.abc import Sequence
from typing import Any

from bakeoff.data.asking import Prompts

REPLACEMENT = "\ufffd"  # what an incomplete character is decoded as
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token that is one byte of a character
WINDOW = 32  # tokens that are decoded again with each new one: a whole text each time would take its length squared
CLEANED = 8  # letters at the end of a text that a tokenizer which tidies up may still change


class Text:
    """The text of one output. What `add` and `end` return, joined, is the text that the evaluation would score.

    `tokenizer` is a copy that nothing else uses at the same time. `stops` are texts that end the output; they are not
    part of it.
    """

    def __init__(self, prompts: Prompts, tokenizer: Any, stops: Sequence[str] = ()):
        self.prompts, self.tokenizer, self.stops = prompts, tokenizer, [*stops, *prompts.stops]
        self.lead, self.special = prompts.form.lead, {*tokenizer.all_special_ids}
        self.tidies = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self.ids: list[int] = []
        self.sent = ""
        self.stopped = False
        self.known, self.start, self.middle = "", 0, 0  # the text of ids[:middle], and where the window begins

    def add(self, token: int) -> str:
        """Return what a further token makes sure of the text; `stopped` says if it completed a stop text."""
        self.ids.append(token)
        text = self.begun(self.so_far())
        if text is None or self.open(text):
            return ""  # bytes are decoded together with those that follow
        text = text[:-CLEANED] if self.tidies else text
        self.stopped = self.first_stop(text) is not None
        return self.rest() if self.stopped else self.news(self.sure(text))

    def end(self) -> str:
        """Return what is left of the text after its last token."""
        return "" if self.stopped else self.rest()

    def rest(self) -> str:
        """Return what has not been returned of the whole text; raise ValueError if what was returned is not of it."""
        whole = self.whole
        if not whole.startswith(self.sent):
            raise ValueError("the tokenizer changed a text that was sent already")
        return self.news(whole)

    @property
    def whole(self) -> str:
        """The text so far, as the evaluation would show it, up to the first stop text."""
        text = self.prompts.begun(self.decoded(self.ids).removeprefix(self.lead))
        return text[: self.first_stop(text)].rstrip()

    def news(self, text: str) -> str:
        """Return what a text has beyond what was returned before."""
        if not text.startswith(self.sent):
            return ""
        new, self.sent = text[len(self.sent) :], text
        return new

    def so_far(self) -> str:
        """Return the text of all ids, of which only the last ones are decoded; the window moves with them."""
        before, window = (self.decoded(self.ids[self.start : end]) for end in (self.middle, None))
        if self.tidies or not window.startswith(before):
            return self.decoded(self.ids)
        text = self.known + window[len(before) :]
        if len(self.ids) - self.middle >= WINDOW and not self.open(text):
            self.known, self.start, self.middle = text, self.middle, len(self.ids)
        return text

    def open(self, text: str) -> bool:
        """Return whether the last character may be incomplete."""
        shown = next((i for i in reversed(self.ids) if i not in self.special), None)
        piece = "" if shown is None else self.tokenizer.convert_ids_to_tokens(shown)
        return text.endswith(REPLACEMENT) or BYTE.fullmatch(piece or "") is not None

    def decoded(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def begun(self, text: str) -> str | None:
        """Return a text without what goes before an output; None while that is not complete."""
        if self.lead.startswith(text):
            return None
        return self.prompts.begun(text.removeprefix(self.lead))

    def first_stop(self, text: str) -> int | None:
        """Return where the first stop text begins."""
        return min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)

    def sure(self, text: str) -> str:
        """Return what of a text stays, whatever follows."""
        held = max((n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[: len(text) - held].rstrip()

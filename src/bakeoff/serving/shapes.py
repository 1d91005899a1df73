"""The shapes of answers, as OpenAI's interface has them."""

import secrets
import time
from typing import Any


class Shape:
    """The answer to one request: a chat's or a completion's, of a model by the name that was asked for."""

    def __init__(self, chat: bool, model: str):
        self.chat = chat
        kind = "chat.completion" if chat else "text_completion"
        prefix = "chatcmpl" if chat else "cmpl"
        self.own = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.kind, self.part_kind = kind, f"{kind}.chunk" if chat else kind

    def whole(self, text: str, finish: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        """Return a whole answer."""
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self.own, "object": self.kind, "choices": [choice], "usage": usage}

    def opening(self) -> dict[str, Any]:
        """Return the first event of a chat's stream, which has no text."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, text: str) -> dict[str, Any]:
        """Return an event with a piece of the text."""
        return self._event({"content": text} if self.chat else text)

    def last(self, finish: str | None) -> dict[str, Any]:
        """Return the event that says how the output ended."""
        return self._event({} if self.chat else "", finish)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the event with the usage, which has no choice."""
        return {**self.own, "object": self.part_kind, "choices": [], "usage": usage}

    def _event(self, content: Any, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta" if self.chat else "text": content, "logprobs": None, "finish_reason": finish}
        return {**self.own, "object": self.part_kind, "choices": [choice]}

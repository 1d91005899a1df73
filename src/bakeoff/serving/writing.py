"""One output while it is written: its pieces of text, how it ended, what it cost."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from bakeoff.serving.errors import ApiError
from bakeoff.serving.models import Model
from bakeoff.serving.prompting import Prompt
from bakeoff.serving.service import Service
from bakeoff.serving.text import Text
from bakeoff.serving.worker import Output


class Writing:
    """An output of a model. `began` is when its request came, on the monotonic clock."""

    def __init__(self, service: Service, model: Model, prompt: Prompt, output: Output, text: Text, began: float):
        self.service, self.model, self.prompt, self.output, self.text = service, model, prompt, output, text
        self.began, self.tokens = began, 0
        self.finish: str | None = None

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the text piece by piece; raise ApiError if the engine failed. Left early, it frees its row."""
        metrics, name = self.service.metrics, self.model.id
        try:
            while self.finish is None:
                event = await self.output.next()
                piece = ""
                if event.token is not None:
                    if not self.tokens:
                        metrics.first.labels(name).observe(time.monotonic() - self.began)
                    self.tokens += 1
                    piece = self.text.add(event.token)
                if event.finished == "failed":
                    raise ApiError(500, "the model could not be called for this request. Try: a shorter one, or again")
                if self.text.stopped:
                    self.finish = "stop"
                elif event.finished:
                    self.finish = event.finished
                    piece += self.text.end()
                if piece:
                    yield piece
        finally:
            self.service.worker.cancel(self.output)

    @property
    def usage(self) -> dict[str, Any]:
        """What the request read and wrote; `cut_tokens` were left out of its prompt, as in the evaluation."""
        read = len(self.prompt.ids)
        return {
            "prompt_tokens": read, "completion_tokens": self.tokens, "total_tokens": read + self.tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "cut_tokens": self.prompt.cut},
        }  # fmt: skip

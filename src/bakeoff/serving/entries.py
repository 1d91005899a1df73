"""Entries of bakeoffs that share one base in memory, for Python programs: switching between them loads nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bakeoff.data.asking import Document
from bakeoff.errors import DataError, SetupError, did_you_mean
from bakeoff.serving.models import Model, Models
from bakeoff.serving.opening import Opened

if TYPE_CHECKING:
    from bakeoff.compute.serving.request import Event


class Entries:
    """Entries by the names of their models, as `bakeoff serve` names them. One thread at a time may use them."""

    def __init__(self, opened: Opened):
        self.engine = opened.engine
        self.models = Models.of_all(opened.served)

    @property
    def names(self) -> list[str]:
        """The names: NAME/ENTRY, NAME/base, and NAME for the recommended entry of the bakeoff NAME."""
        return [name for name, _ in self.models.names()]

    def generate(self, documents: Sequence[Document], name: str) -> list[str]:
        """Return the greedy output of an entry for each document, as `Summarizer.generate` does.

        Raises SetupError if there is no such entry, or the model cannot be called, for want of memory for example.
        """
        model = dict(self.models.names()).get(name)
        if model is None:
            raise SetupError(f"{name}: is not loaded.{did_you_mean(name, self.names)}")
        if isinstance(documents, str):
            raise DataError("generate: expected a list of documents, got one text. Try: [text]")
        rows = model.prompts.rows(documents)
        ids = self._written(model, [row.prompt for row in rows.values()])
        texts = dict(zip(rows, model.prompts.texts(ids), strict=True)) if ids else {}
        return [texts.get(i, "") for i in range(len(documents))]

    def _written(self, model: Model, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Return the ids of each prompt's output."""
        from bakeoff.compute.serving.request import Request

        most, ends = model.prompts.output_tokens, model.bakeoff.ends
        rows = [self.engine.submit(model.adapter, Request(prompt, most, ends)) for prompt in prompts]
        written: dict[int, list[int]] = {row: [] for row in rows}
        left = len(rows)
        while left:
            for event in self.engine.step():
                self._check(event, rows)
                if event.token is not None:
                    written[event.row].append(event.token)
                left -= event.finished is not None
        return [written[row] for row in rows]

    def _check(self, event: "Event", rows: Sequence[int]) -> None:
        """Raise SetupError if a row could not be written; the others are given up too."""
        if event.finished == "failed":
            for row in rows:
                self.engine.cancel(row)
            raise SetupError("generate: the model could not be called. Try: fewer documents")

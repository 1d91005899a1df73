"""Prompts of a prompted baseline for documents that come after a bakeoff: a prompt that has won can be put to use."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from bakeoff.config.config import Config
from bakeoff.data.asking import Prompts
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example
from bakeoff.data.forms import form_of
from bakeoff.data.token_file import load_tokens
from bakeoff.data.tokens import Tokens
from bakeoff.errors import DataError
from bakeoff.scoring.prompted import (
    NEAREST,
    Around,
    Nearest,
    around_instruction,
    around_shots,
    first_answer,
    prompted_row,
    separator_of,
    shot_costs,
    shows_examples,
)
from bakeoff.store.records import RunResult
from bakeoff.store.run_folder import Folder


class PromptedPrompts(Prompts):
    """How a prompted baseline makes a prompt of a document; `record` is that of its finished run.

    A prompt is that of the evaluation, but for a document near the end of the context whose target is longer than any
    output: in the evaluation it is cut for its target, too.
    """

    def __init__(
        self, folder: Folder, config: Config, tokenizer: Any, encoder_decoder: bool, context: int | None,
        record: RunResult,
    ):  # fmt: skip
        super().__init__(folder, config, tokenizer, encoder_decoder, context)
        self.folder, self.context, self.run = folder, context, record.run
        self.instruction = record.instruction
        self.untested = form_of(config, tokenizer, folder.plan().chat is not None, encoder_decoder)
        self.between = separator_of(record.run.settings)
        ends_itself = isinstance(self.form, ChatForm)  # a template's examples are turns, each with its end
        self.stops = (self.between,) if shows_examples(record.run.entry) and not ends_itself else ()

    def encoded(self, examples: Sequence[Example]) -> Iterator[Tokens]:
        """Yield examples' ids; raise DataError where the context has no room for a document."""
        rows = [*super().encoded(examples)]
        for number, (row, around) in enumerate(zip(rows, self.around(rows, examples), strict=True), 1):
            made, share = prompted_row(row, around, self.form, self.context, self.output_tokens)
            if share <= 0:
                raise DataError(f"document {number}: {self.run.entry} leaves no room for it in {self.context} tokens")
            yield made

    def around(self, rows: Sequence[Tokens], examples: Sequence[Example]) -> Iterator[Around]:
        """Yield what is around the documents in their prompts."""
        if not shows_examples(self.run.entry):
            return around_instruction(rows, examples, self.untested, self.instruction or "")
        tokens = {"train": self.train_rows, "test": rows}
        places = self.places(rows, examples)
        return around_shots(tokens, examples, self.train, places, self.untested, self.between)

    def places(self, rows: Sequence[Tokens], examples: Sequence[Example]) -> Sequence[Sequence[int]]:
        """Return which training examples are shown before each document."""
        name = self.run.entry
        if not name.startswith(NEAREST):
            return [self.run.settings["examples"]] * len(rows)
        count = int(name.removeprefix(NEAREST))
        return self.index.fitting(count, self.costs, examples, rows, self.untested, self.context, self.output_tokens)

    def begun(self, text: str) -> str:
        """Return an output's text without white space before it that does not count."""
        return super().begun(text).lstrip("\n") if self.stops else super().begun(text)

    def texts(self, outputs: Sequence[Sequence[int]]) -> list[str]:
        """Return outputs' ids as texts, as they are scored: up to where the base would begin another example."""
        texts = super().texts(outputs)
        return [first_answer(text, self.between, self.indented) for text in texts] if self.stops else texts

    @cached_property
    def train_rows(self) -> Sequence[Tokens]:
        """The training examples' ids."""
        return load_tokens(self.folder.tokens_file("train"))

    @cached_property
    def train(self) -> dict[int, Example]:
        """The training examples that may be shown, by their places."""
        shown = self.run.settings.get("examples")
        rows = enumerate(self.folder.examples("train"))
        return {place: Example.from_row(row.row()) for place, row in rows if shown is None or place in shown}

    @cached_property
    def costs(self) -> Any:
        """How many tokens each training example takes in a prompt, (examples,)."""
        return shot_costs(self.train_rows, self.untested, self.between)

    @cached_property
    def index(self) -> Nearest:
        """Finds the training examples that are nearest to a document."""
        return Nearest(self.train.values())

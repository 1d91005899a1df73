"""Prompts for documents that come after a bakeoff: made, and cut, as those of its test split."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bakeoff.config.config import Config
from bakeoff.config.sections import encodable
from bakeoff.config.templates import prompt_template
from bakeoff.data.columns import columns_of
from bakeoff.data.conversations import Conversations, conversations_of
from bakeoff.data.examples import USER, Example, Turn
from bakeoff.data.forms import as_tested, form_of
from bakeoff.data.lines import Row
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.data.tokens import Tokens, encode
from bakeoff.errors import DataError, SetupError
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.run_folder import Folder

# A text, a row with the columns that the template takes, or the turns of a conversation.
Document = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Prompts:
    """How a bakeoff makes a prompt of a document, and a text of an output's ids.

    `context` is how many tokens the base reads, None if it has no limit. Raises SetupError if the plan's lengths are
    none that this base allows.
    """

    def __init__(self, folder: Folder, config: Config, tokenizer: Any, encoder_decoder: bool, context: int | None):
        plan, data = folder.plan(), config.data
        self.form = as_tested(form_of(config, tokenizer, plan.chat is not None, encoder_decoder))
        self.columns = columns_of(data.document, data.summary, prompt_template(self.form.template))
        self.turns = conversations_of(data, references=False) if data.conversation else None
        self.max_tokens, self.output_tokens = lengths(folder, plan, context)
        self.indented = INDENT in plan.texts
        self.stops: tuple[str, ...] = ()  # texts that end an output, and are not part of it

    def rows(self, documents: Sequence[Document]) -> dict[int, Tokens]:
        """Return each document that is not blank, by its index, as a prompt that leaves room for its output.

        Raises DataError if a document is a text, and the template uses more columns than the document.
        """
        examples = self.conversations(documents, self.turns) if self.turns else self.examples(documents)
        return dict(zip(examples, self.encoded([*examples.values()]), strict=True))

    def after(self, turns: Sequence[Turn]) -> Tokens:
        """Return turns, the last of which is not an answer, as a prompt that leaves room for its output."""
        (tokens,) = self.encoded([asked("1", turns)])
        return tokens

    def encoded(self, examples: Sequence[Example]) -> Iterator[Tokens]:
        """Yield examples' ids."""
        return encode(examples, self.form, self.max_tokens, self.output_tokens, "documents")

    def texts(self, outputs: Sequence[Sequence[int]]) -> list[str]:
        """Return outputs' ids as texts, as they are scored."""
        return self.form.texts(outputs, self.indented)

    def begun(self, text: str) -> str:
        """Return an output's text without white space before it that does not count."""
        return text if self.indented else text.lstrip()

    def examples(self, documents: Sequence[Document]) -> dict[int, Example]:
        """Return each document that is not blank, by its index."""
        return {
            i: Example(str(i + 1), text, "", around=self.columns.around(self.values(documents[i]), f"document {i + 1}"))
            for i, text in enumerate(self.documents(documents))
            if text.strip()
        }

    def conversations(self, documents: Sequence[Document], columns: Conversations) -> dict[int, Example]:
        """Return each conversation that is not blank, by its index; a text alone is the user's turn.

        Raises DataError if one does not end with a turn of the user.
        """
        examples = {}
        for i, given in enumerate(documents):
            if isinstance(given, str):
                turns = [(USER, given)] if given.strip() else []
            else:
                row = dict(given) if isinstance(given, Mapping) else {columns.document: list(given)}
                turns = columns.asked(Row("generate", i + 1, row, unit="document "))
            if turns:
                examples[i] = asked(str(i + 1), turns)
        return examples

    def values(self, document: Document) -> Mapping[str, Any]:
        """Return a document as a row of columns."""
        return {self.columns.document: document} if not isinstance(document, Mapping) else document

    def documents(self, documents: Sequence[Document]) -> list[str]:
        """Return each document's text; raise DataError if a row has none, or it cannot be encoded."""
        if isinstance(documents, str):
            raise DataError("generate: expected a list of documents, got one text. Try: [text]")
        named = self.columns.document
        texts = [d.get(named) if isinstance(d, Mapping) else d for d in documents]
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise DataError(f"document {number}: no text in column '{named}'")
            if not encodable(text):
                raise DataError(
                    f"document {number}: contains half a surrogate pair, which is not text. Fix its \\u escapes"
                )
        return [str(text) for text in texts]


def asked(name: str, turns: Sequence[Turn]) -> Example:
    """Return turns to which an answer is to be written as an example."""
    question = next(text for role, text in reversed(turns) if role == USER)
    return Example(name, question, "", turns=tuple(turns))


def lengths(folder: Folder, plan: PlanDocument, context: int | None) -> tuple[int, int]:
    """Return how many tokens a document with its output, and an output, may have; raise SetupError if none can."""
    longest, output = plan.max_tokens, plan.output_tokens
    if output is not None and output <= longest <= (context or math.inf):
        return longest, output
    raise SetupError(
        f"{folder.plan_file}: max_tokens {longest!r:.40} and output_tokens {output!r:.40} are not lengths that this "
        f"base allows. Try: bakeoff run again"
    )

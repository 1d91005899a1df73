"""Uses an adapter of a bakeoff: documents in, outputs out, exactly as in its evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.adapter_files import check_base, load_adapter
from bakeoff.compute.model.base import Base, for_decoding, load_base
from bakeoff.compute.model.device import choose, out_of_memory, set_products
from bakeoff.config.config import Config
from bakeoff.config.loading import load_config
from bakeoff.config.planned import decodes_in, planned_config
from bakeoff.config.sections import encodable
from bakeoff.config.templates import prompt_template
from bakeoff.data.columns import columns_of
from bakeoff.data.conversations import Conversations, conversations_of
from bakeoff.data.examples import USER, Example
from bakeoff.data.forms import as_tested, form_of, stops_of
from bakeoff.data.lines import Row
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.data.tokens import Tokens, encode
from bakeoff.errors import DataError, SetupError
from bakeoff.store.plan_document import BaseFacts, PlanDocument
from bakeoff.store.records import Run
from bakeoff.store.run_folder import Folder

# A text, a row with the columns that the template takes, or the turns of a conversation.
Document = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Summarizer:
    """A base model with one adapter on it.

    `device` is named as in `machine.device`; there too the base has the precision of the bakeoff. Raises SetupError if
    the base is not that of the bakeoff, or the adapter is not what `run` writes.
    """

    def __init__(self, folder: Folder, adapter: Path, run: Run, device: str = "auto"):
        plan = folder.plan()
        # What is opened, or run, stands in config.yaml, which is signed; and a base that has moved is named there.
        signed = load_config(folder.config_file)
        base_of = {key: getattr(signed, key) for key in ("model", "revision", "trust_remote_code")}
        self.config = planned_config(folder, plan).model_copy(update=base_of)
        check_base(self.config, plan.model)
        set_products(self.config.protocol.tf32)
        base = load_base(self.config.model, plan.precision, self.config.pin, run.quantize, choose(device))
        base, self.note = conforming(base)
        self.model = load_adapter(base, adapter, made_by(run, self.config, plan.model))
        self.base = replace(for_decoding(base, self.model, decodes_in(plan, self.config)), stops=stops_of(plan))
        encoder_decoder = base.decoder_start is not None
        self.form = as_tested(form_of(self.config, base.tokenizer, plan.chat is not None, encoder_decoder))
        data = self.config.data
        self.columns = columns_of(data.document, data.summary, prompt_template(self.form.template))
        self.turns = conversations_of(data, references=False) if data.conversation else None
        self.max_tokens, self.output_tokens = lengths(folder, plan, base)
        self.indented = INDENT in plan.texts

    def generate(self, documents: Sequence[Document]) -> list[str]:
        """Return the greedy output for each document, a text or a row of columns; a blank one has an empty output."""
        outputs, rows = [""] * len(documents), self.rows(documents)
        if rows:
            prompts = [row.prompt for row in rows.values()]
            ids = self.decoded(prompts)
            for i, text in zip(rows, self.form.texts(ids, self.indented), strict=True):
                outputs[i] = text
        return outputs

    def decoded(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return the ids of each prompt's output; raise SetupError if there is not enough memory."""
        try:
            return generate(self.base, self.model, prompts, self.output_tokens, self.config.generation.batch_size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise SetupError(
                f"generate: not enough memory for {len(prompts)} documents. Try: fewer of them, or a smaller "
                "generation.batch_size"
            ) from None

    def cut(self, documents: Sequence[Document]) -> dict[int, tuple[int, int]]:
        """Return, for each document that is cut, its index with how many of its tokens are kept, and of how many."""
        return {i: (row.kept, row.kept + row.cut) for i, row in self.rows(documents).items() if row.cut}

    def rows(self, documents: Sequence[Document]) -> dict[int, Tokens]:
        """Return each document that is not blank, by its index, as a prompt that leaves room for its output.

        Raises DataError if a document is a text, and the template uses more columns than the document.
        """
        examples = self.conversations(documents, self.turns) if self.turns else self.examples(documents)
        encoded = encode(examples.values(), self.form, self.max_tokens, self.output_tokens, "documents")
        return dict(zip(examples, encoded, strict=True))

    def examples(self, documents: Sequence[Document]) -> dict[int, Example]:
        """Return each document that is not blank, by its index."""
        return {
            i: Example(str(i + 1), text, "", around=self.columns.around(self.values(documents[i]), f"document {i + 1}"))
            for i, text in enumerate(self.texts(documents))
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
                asked = next(text for role, text in reversed(turns) if role == USER)
                examples[i] = Example(str(i + 1), asked, "", turns=tuple(turns))
        return examples

    def values(self, document: Document) -> Mapping[str, Any]:
        """Return a document as a row of columns."""
        return {self.columns.document: document} if not isinstance(document, Mapping) else document

    def texts(self, documents: Sequence[Document]) -> list[str]:
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


def lengths(folder: Folder, plan: PlanDocument, base: Base) -> tuple[int, int]:
    """Return how many tokens a document with its output, and an output, may have; raise SetupError if none can."""
    longest, output = plan.max_tokens, plan.output_tokens
    context = getattr(base.model.config.get_text_config(decoder=True), "max_position_embeddings", None) or math.inf
    if output is not None and output <= longest <= context:
        return longest, output
    raise SetupError(
        f"{folder.plan_file}: max_tokens {longest!r:.40} and output_tokens {output!r:.40} are not lengths that this "
        f"base allows. Try: bakeoff run again"
    )


def made_by(run: Run, config: Config, planned: BaseFacts) -> dict[str, Any]:
    """Return what `bakeoff.json` in the adapter of a run must say."""
    of_base: dict[str, Any] = {"model_identity": planned.identity} if planned.identity else {}
    of_base |= {} if run.quantize == "none" else {"quantize": run.quantize}
    return {"method": run.method, "settings": run.settings, "template": config.template, **of_base}

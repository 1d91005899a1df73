"""Using an adapter that a bakeoff made: documents in, outputs out, exactly as in its evaluation."""

from collections.abc import Sequence
from pathlib import Path

from bakeoff.config import load_config
from bakeoff.data.examples import Example
from bakeoff.data.forms import make_form
from bakeoff.data.tokens import Tokens, encode
from bakeoff.evaluation.generation import generate
from bakeoff.model import for_decoding, load_adapter, load_base
from bakeoff.records import Folder


class Summarizer:
    """A base model with one adapter on it."""

    def __init__(self, folder: Folder, adapter: Path):
        self.config = load_config(folder.config_file)
        base = load_base(self.config.model, self.config.protocol.precision, self.config.pin)
        self.model = load_adapter(base, adapter)
        self.base = for_decoding(base, self.model, self.config.generation.precision)
        self.form = make_form(base.tokenizer, self.config.template, base.decoder_start is not None)
        self.max_tokens: int = folder.plan()["max_tokens"]
        self.output_tokens: int = folder.plan()["output_tokens"]

    def generate(self, documents: Sequence[str]) -> list[str]:
        """Return the greedy output for each document; a blank one has an empty output."""
        written = [i for i, text in enumerate(documents) if text.strip()]
        outputs = [""] * len(documents)
        if written:
            prompts = [row.prompt for row in self.rows([documents[i] for i in written])]
            ids = generate(self.base, self.model, prompts, self.output_tokens, self.config.generation.batch_size)
            for i, text in zip(written, self.base.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                outputs[i] = text.strip()
        return outputs

    def cut(self, documents: Sequence[str]) -> dict[int, tuple[int, int]]:
        """Return, for each document that is cut, its index with how many of its tokens are kept, and of how many."""
        rows = self.rows(documents)
        whole = {i: len(self.form.documents([documents[i]])[0]) for i, row in enumerate(rows) if row.cut}
        return {i: (len(rows[i].prompt) - self.form.fixed, total) for i, total in whole.items()}

    def rows(self, documents: Sequence[str]) -> list[Tokens]:
        """Return each document as a prompt that leaves room for its output, as in evaluation."""
        examples = [Example(id=str(i), document=text, summary="") for i, text in enumerate(documents)]
        return list(encode(examples, self.form, self.max_tokens, self.output_tokens, "documents"))

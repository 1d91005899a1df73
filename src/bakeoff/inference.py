"""Using an adapter that a bakeoff made: documents in, outputs out, exactly as in its evaluation."""

from collections.abc import Sequence
from pathlib import Path

from bakeoff.config import load_config
from bakeoff.data.examples import Example
from bakeoff.data.forms import make_form
from bakeoff.data.tokens import encode
from bakeoff.evaluation.generation import generate
from bakeoff.model import for_decoding, load_adapter, load_base
from bakeoff.records import Folder


class Summarizer:
    """A base model with one adapter on it."""

    def __init__(self, folder: Folder, adapter: Path):
        self.config = load_config(folder.config_file)
        base = load_base(self.config.model, self.config.protocol.precision)
        self.model = load_adapter(base, adapter)
        self.base = for_decoding(base, self.model, self.config.generation.precision)
        self.max_tokens: int = folder.plan()["max_tokens"]
        self.output_tokens: int = folder.plan()["output_tokens"]

    def generate(self, documents: Sequence[str]) -> list[str]:
        """Return the greedy output for each document."""
        examples = [Example(id=str(i), document=text, summary="") for i, text in enumerate(documents)]
        form = make_form(self.base.tokenizer, self.config.template, self.base.decoder_start is not None)
        rows = encode(examples, form, self.max_tokens, self.output_tokens, "documents")
        ids = generate(
            self.base, self.model, [row.prompt for row in rows], self.output_tokens, self.config.generation.batch_size
        )
        return [text.strip() for text in self.base.tokenizer.batch_decode(ids, skip_special_tokens=True)]

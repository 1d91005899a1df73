"""Using an adapter that a bakeoff made: documents in, outputs out, exactly as in its evaluation."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bakeoff.config import load_config
from bakeoff.data.examples import Example
from bakeoff.data.tokens import Tokens, encode
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
        """Return the greedy output for each document; a blank one has an empty output."""
        written = [i for i, text in enumerate(documents) if text.strip()]
        outputs = [""] * len(documents)
        if written:
            prompts = [row.prompt for row in self.rows([documents[i] for i in written], self.max_tokens)]
            ids = generate(self.base, self.model, prompts, self.output_tokens, self.config.generation.batch_size)
            for i, text in zip(written, self.base.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                outputs[i] = text.strip()
        return outputs

    def cut(self, documents: Sequence[str]) -> dict[int, tuple[int, int]]:
        """Return, for each document that is cut, its index with how many of its tokens are kept, and of how many."""
        (empty,) = self.rows([""], self.max_tokens)
        found = {}
        for i, row in enumerate(self.rows(documents, self.max_tokens)):
            if row.cut:
                (whole,) = self.rows([documents[i]], sys.maxsize)
                found[i] = len(row.prompt) - len(empty.prompt), len(whole.prompt) - len(empty.prompt)
        return found

    def rows(self, documents: Sequence[str], max_tokens: int) -> list[Tokens]:
        """Return each document as a prompt of at most `max_tokens` beside its output, as in evaluation."""
        examples = [Example(id=str(i), document=text, summary="") for i, text in enumerate(documents)]
        tokenizer, template = self.base.tokenizer, self.config.template
        return list(encode(examples, tokenizer, template, max_tokens, self.output_tokens, "documents"))

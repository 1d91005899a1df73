"""Uses an adapter of a bakeoff: documents in, outputs out, exactly as in its evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.adapter_files import check_base, load_adapter
from bakeoff.compute.model.base import Base, context_of, for_decoding, load_base
from bakeoff.compute.model.device import choose, set_products
from bakeoff.config.config import Config
from bakeoff.config.planned import decodes_in, trusted_config
from bakeoff.data.asking import Document, Prompts
from bakeoff.data.forms import stops_of
from bakeoff.library_errors import enough_memory
from bakeoff.scoring.prompted_asking import PromptedPrompts
from bakeoff.store.plan_document import BaseFacts
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import Folder

LESS_MEMORY = "--device cpu, or end other processes that use the device"


class Summarizer:
    """A base model with one adapter on it, or without one, for a prompted baseline.

    `record` is that of a finished run. `device` is named as in `machine.device`; there too the base has the precision
    of the bakeoff. Raises SetupError if the base is not that of the bakeoff, the adapter is not what the run writes, or
    there is not enough memory for them.
    """

    def __init__(self, folder: Folder, adapter: Path | None, record: RunResult, device: str = "auto"):
        plan, self.config, run = folder.plan(), trusted_config(folder), record.run
        with enough_memory(f"generate: loading {self.config.model} on {device}", LESS_MEMORY):
            base, self.note = opened(self.config, plan.precision, run.quantize, plan.model, device)
            self.model: Any = base.model.requires_grad_(False).eval()
            if adapter:
                self.model = load_adapter(base, adapter, made_by(run, self.config, plan.model))
            self.base = replace(for_decoding(base, self.model, decodes_in(plan, self.config)), stops=stops_of(plan))
        given = (folder, self.config, base.tokenizer, base.decoder_start is not None, context_of(base))
        self.prompts = Prompts(*given) if adapter else PromptedPrompts(*given, record)

    def generate(self, documents: Sequence[Document]) -> list[str]:
        """Return the greedy output for each document, a text or a row of columns; a blank one has an empty output."""
        outputs, rows = [""] * len(documents), self.prompts.rows(documents)
        if rows:
            ids = self.decoded([row.prompt for row in rows.values()])
            for i, text in zip(rows, self.prompts.texts(ids), strict=True):
                outputs[i] = text
        return outputs

    def decoded(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return the ids of each prompt's output; raise SetupError if there is not enough memory."""
        most = self.prompts.output_tokens
        with enough_memory(f"generate: {len(prompts)} documents", "fewer of them, or a smaller generation.batch_size"):
            return generate(self.base, self.model, prompts, most, self.config.generation.batch_size)

    def cut(self, documents: Sequence[Document]) -> dict[int, tuple[int, int]]:
        """Return, for each document that is cut, its index with how many of its tokens are kept, and of how many."""
        return {i: (row.kept, row.kept + row.cut) for i, row in self.prompts.rows(documents).items() if row.cut}


def opened(config: Config, precision: str, quantize: Any, planned: BaseFacts, device: str) -> tuple[Base, str | None]:
    """Return a bakeoff's base, loaded, and what is to be said of it, if anything.

    Raises SetupError if the base's files are not those of the bakeoff.
    """
    check_base(config, planned)
    set_products(config.protocol.tf32)
    return conforming(load_base(config.model, precision, config.pin, quantize, choose(device)))


def made_by(run: Run, config: Config, planned: BaseFacts) -> dict[str, Any]:
    """Return what `bakeoff.json` in the adapter of a run must say."""
    of_base: dict[str, Any] = {"model_identity": planned.identity} if planned.identity else {}
    of_base |= {} if run.quantize == "none" else {"quantize": run.quantize}
    return {"method": run.method, "settings": run.settings, "template": config.template, **of_base}

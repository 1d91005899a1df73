"""The model that an export is made from: the adapter of a finished run on its base, as its evaluation had it."""

from pathlib import Path

from torch import nn

from bakeoff.compute.decoding.summarizer import made_by
from bakeoff.compute.export.merging import unpack
from bakeoff.compute.model.adapter_files import check_base, load_adapter
from bakeoff.compute.model.base import Base, load_model
from bakeoff.compute.model.device import CPU
from bakeoff.compute.model.loading import check_tokenizer, load_tokenizer
from bakeoff.config.config import Config
from bakeoff.config.planned import trusted_config
from bakeoff.data.forms import stops_of
from bakeoff.errors import SetupError
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run
from bakeoff.store.run_folder import Folder


class Source:
    """A finished run of a bakeoff: its plan, its config, and the base with its adapter.

    The base's place is the one that the signed config.yaml names: it may have moved. Raises SetupError if it is not the
    base of the bakeoff.
    """

    def __init__(self, folder: Folder, run_id: str):
        self.folder, self.files = folder, folder.run(run_id)
        self.plan: PlanDocument = folder.plan()
        record = self.files.finished()
        if record is None:
            raise SetupError(f"{self.files.path}: not a finished run. Try: bakeoff run again")
        self.run: Run = record.run
        self.config: Config = trusted_config(folder)
        check_base(self.config, self.plan.model)

    @property
    def adapter(self) -> Path:
        """The folder of the run's adapter."""
        return self.files.adapter

    @property
    def output_tokens(self) -> int:
        """The most tokens that an output has."""
        assert self.plan.output_tokens is not None  # a stored plan has it
        return self.plan.output_tokens

    def base(self) -> Base:
        """Return the base in fp32, with the weights that the run had: rounded to its precision, or packed and unpacked.

        It has none of the faster parts that runs install, so that what is saved of it is what transformers knows.
        """
        config, plan = self.config, self.plan
        model = unpack(load_model(config.model, plan.precision, config.pin, self.run.quantize, CPU))
        tokenizer = load_tokenizer(config.model, config.pin)
        check_tokenizer(config.model, tokenizer, model)
        nn.Module.float(model)
        return Base(model, tokenizer, CPU, "fp32", stops=stops_of(plan))

    def adapted(self, base: Base) -> nn.Module:
        """Return the base with the run's adapter on it, frozen."""
        return load_adapter(base, self.adapter, made_by(self.run, self.config, self.plan.model))

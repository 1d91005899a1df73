"""What an export is asked to be, and what is refused before any model is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bakeoff.config.config import Config
from bakeoff.errors import ConfigError, SetupError, did_you_mean
from bakeoff.methods import Method, build_method
from bakeoff.store.records import Run

Form = Literal["merged", "peft", "lora"]  # how a model's files are written
TARGETS = ("peft", "merged", "lora")
FORMS: dict[str, Form] = {"peft": "peft", "merged": "merged", "lora": "lora"}
DTYPES = ("fp32", "bf16", "fp16")
RANK = 64


@dataclass(frozen=True)
class Options:
    """An export's target and how it is made.

    `output` is its folder, `dtype` that of its weights (None: the base's own), `rank` a converted LoRA's; `limit` is
    the number of test examples that it is checked with (None: all), 0 for no check. `force` replaces an export that
    bakeoff made.
    """

    to: str
    output: Path | None = None
    dtype: str | None = None
    rank: int = RANK
    limit: int | None = None
    force: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise ConfigError if the options cannot be had together."""
        if self.to not in TARGETS:
            raise ConfigError(f"--to {self.to}: unknown target.{did_you_mean(self.to, TARGETS)}")
        whole = self.to == "merged"
        if self.dtype is not None and not (whole and self.dtype in DTYPES):
            which = f"Allowed: {', '.join(DTYPES)}" if whole else f"--to {self.to} writes an adapter, in fp32"
            raise ConfigError(f"--dtype {self.dtype}: {which}")
        if self.rank < 1 or (self.limit is not None and self.limit < 0):
            raise ConfigError(f"--rank {self.rank} --limit {self.limit}: expected whole numbers, a rank of 1 or more")


def form_of(options: Options, run: Run, adapter: Path, config: Config) -> Form:
    """Return how the model's files are written; raise SetupError if this method has no such form."""
    method = build_method(run.entry, {**run.settings, "method": run.method})
    plain = (adapter / "adapter_config.json").exists() and method.keeps_base
    form = FORMS[options.to]
    where = f"--to {options.to}: {run.method}"
    if form == "peft" and not plain:
        raise SetupError(f"{where}: PEFT has no format for trained weights of the base itself. Try: --to merged")
    if form != "peft":
        check_merges(where, method, config, run)
    return form


def check_merges(where: str, method: Method, config: Config, run: Run) -> None:
    """Raise SetupError if an adapter cannot become weights, or the base's own code would have to come along."""
    if method.virtual_tokens:
        raise SetupError(
            f"{where}: cannot be merged: its {method.virtual_tokens} virtual tokens are no weights of the base. Try: "
            "--to peft, or bakeoff generate"
        )
    if config.trust_remote_code:
        raise SetupError(f"{where}: the base needs code of its own, which an export does not have. Try: --to peft")

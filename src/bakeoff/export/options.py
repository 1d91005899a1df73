"""The options of an export, and what is refused before any model is loaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bakeoff.config.config import Config
from bakeoff.errors import ConfigError, SetupError, did_you_mean
from bakeoff.export.vllm_support import check_vllm
from bakeoff.hub import model_folder
from bakeoff.methods import Method, build_method
from bakeoff.store.checksums import read_mapping
from bakeoff.store.records import Run

Form = Literal["merged", "peft", "lora"]  # how a model's files are written
TARGETS = ("peft", "merged", "lora", "gguf", "ollama", "vllm", "hub")
FORMS: dict[str, Form] = {
    "peft": "peft", "merged": "merged", "lora": "lora", "gguf": "merged", "ollama": "merged", "vllm": "peft",
}  # fmt: skip
BY_LLAMA_CPP = ("gguf", "ollama")
DTYPES = ("fp32", "bf16", "fp16")
GGUF_DTYPES = (*DTYPES, "q8_0")
RANK = 64


@dataclass(frozen=True)
class Options:
    """An export's target and how it is made.

    `output` is its folder, `dtype` that of its weights (None: the base's own), `rank` a converted LoRA's; `limit` is
    the number of test examples that it is checked with (None: all), 0 for no check. `force` replaces an export that
    bakeoff made. `llama_cpp` is a folder of llama.cpp; `repo` and `public` are of the hub.
    """

    to: str
    output: str | Path | None = None
    dtype: str | None = None
    rank: int = RANK
    limit: int | None = None
    force: bool = False
    device: str = "auto"
    llama_cpp: str | Path | None = None
    repo: str | None = None
    public: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError if the options cannot be combined."""
        if self.to not in TARGETS:
            raise ConfigError(f"--to {self.to}: unknown target.{did_you_mean(self.to, TARGETS)}")
        whole = self.to in ("merged", *BY_LLAMA_CPP)
        allowed = GGUF_DTYPES if self.to in BY_LLAMA_CPP else DTYPES if whole else ()
        if self.dtype is not None and self.dtype not in allowed:
            which = f"Allowed: {', '.join(allowed)}" if whole else f"--to {self.to} writes an adapter, in fp32"
            raise ConfigError(f"--dtype {self.dtype}: {which}")
        if self.rank < 1 or (self.limit is not None and self.limit < 0):
            raise ConfigError(
                f"--rank {self.rank} --limit {self.limit}: expected --rank 1 or more, and --limit 0 or more"
            )
        if (self.repo is None) is (self.to == "hub"):
            raise ConfigError("--repo: --to hub needs --repo OWNER/NAME, and other targets do not use it")
        if self.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ConfigError(f"--repo {self.repo}: not the name of a repository. Try: --repo OWNER/NAME")


def form_of(options: Options, run: Run, adapter: Path, config: Config) -> Form:
    """Return how the model's files are written; raise SetupError if this method has no such form."""
    method = build_method(run.entry, {**run.settings, "method": run.method})
    plain = (adapter / "adapter_config.json").exists() and method.keeps_base
    if options.to == "hub":
        form: Form = "peft" if plain else "merged"
    else:
        form = FORMS[options.to]
    where = f"--to {options.to}: {run.method}"
    if options.to == "vllm":
        check_vllm(where, architecture_of(config), read_mapping(adapter / "adapter_config.json"))
    if form == "peft" and not plain:
        raise SetupError(f"{where}: PEFT has no format for trained weights of the base itself. Try: --to merged")
    if form != "peft":
        check_merges(where, method, config, run)
    return form


def architecture_of(config: Config) -> str:
    """Return the name of the base's architecture in its config.json, by which other programs know it."""
    facts = read_mapping(model_folder(config.model, config.pin, ask_hub=False) / "config.json")
    return str(next(iter(facts.get("architectures") or ()), facts.get("model_type")))


def check_merges(where: str, method: Method, config: Config, run: Run) -> None:
    """Raise SetupError if an adapter cannot become weights, or the base needs its own code."""
    if method.virtual_tokens:
        raise SetupError(
            f"{where}: cannot be merged: its {method.virtual_tokens} virtual tokens are not weights of the base. Try: "
            "--to peft, or bakeoff generate"
        )
    if config.trust_remote_code:
        raise SetupError(f"{where}: the base needs its own code, which an export does not include. Try: --to peft")

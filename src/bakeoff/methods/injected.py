"""The common base of methods that PEFT adds to weight matrices of the model."""

import json
import re
import signal
import subprocess
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from bakeoff.errors import SetupError, listed
from bakeoff.methods.method import Method, beside_text, task_type, with_peft
from bakeoff.methods.packed import bits_of
from bakeoff.methods.twins import with_twins

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


IN_WORDS = {4: "four", 8: "eight"}
# How PEFT says that it takes another value than the one that was set, or none.
IGNORED = r"(?s).*(Adjusted|will be ignored\.|can NOT be performed)"
# And of fields that it also sets itself, for a mixture of experts.
UNMATCHED = {
    "rank_pattern": ".*keys did not match any", "alpha_pattern": ".*keys did not match any",
    "target_parameters": ".*were set but no parameter",
}  # fmt: skip
PATTERN_SECONDS = 5  # of the processor
MATCH = (
    "import json, re, resource, sys; pattern, names, seconds = json.load(sys.stdin);"
    "resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)); [re.fullmatch(pattern, name) for name in names]"
)


class Injected(Method):
    """A method with a PEFT tuner that acts on `target_modules`.

    A subclass names PEFT's config. The config's values are the fields of the method with the same names, and those in
    `fixed`.
    """

    config_class: ClassVar[str]
    fixed: ClassVar[dict[str, Any]] = {}
    starts_as_base: ClassVar[bool] = True
    takes_bits: ClassVar[tuple[int, ...]] = (4, 8)  # in how few the base's weights may be packed
    takes_transposed: ClassVar[bool] = True  # whether PEFT puts it on weights that are stored as GPT-2 stores them
    ranks: ClassVar[tuple[str, ...]] = ()  # fields that are ranks: an adapted weight must have such a one

    target_modules: list[str] | str | None = Field(
        "all-linear",
        description="names of the weights that are adapted, a regular expression for them, or all-linear; null: "
        "PEFT's choice for the architecture",
    )

    @field_validator("target_modules")
    @classmethod
    def _pattern(cls, value: list[str] | str | None) -> list[str] | str | None:
        if value in ([], ""):
            raise ValueError("names no weight. Try: all-linear, or a list of names, as in [q_proj]")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of what a later Python reads in another way
                re.compile(value if isinstance(value, str) else "")
        except (re.error, FutureWarning, DeprecationWarning) as error:
            raise ValueError(
                f"not a regular expression ({error}). Try: a list of names, as in [q_proj], or '.*q_proj'"
            ) from None
        return value

    def prepared(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """Return the model with linear twins of transposed layers, if PEFT has the tuner for linear layers only."""
        return model if self.takes_transposed else with_twins(model)

    def installing(self, model: "PreTrainedModel") -> AbstractContextManager[None]:
        """Return the context in which PEFT adds the tuner to the model; most tuners need none."""
        return nullcontext()

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config for this model."""
        import peft
        from transformers.pytorch_utils import Conv1D

        cls = getattr(peft, self.config_class)
        values = {"task_type": task_type(model), **self.model_dump(), **self.fixed}
        values["fan_in_fan_out"] = any(isinstance(m, Conv1D) for m in model.modules())  # GPT-2 stores transposes
        if beside := beside_text(model):
            values["exclude_modules"] = rf"({'|'.join(map(re.escape, beside))})(\..*)?"
        return cls(**{k: v for k, v in values.items() if k in cls.__dataclass_fields__})

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if PEFT cannot put the method on this model."""
        if packed := {bits_of(p) or 0 for p in model.parameters()} - {0, *self.takes_bits}:
            how = "quantize: int8" if 8 in self.takes_bits else "quantize: none for this entry"
            raise SetupError(
                f"{self.name}: PEFT cannot add it to weights in {IN_WORDS[packed.pop()]} bits. Try: {how}, or lora"
            )
        model = self.prepared(model)
        names = [n for n, m in model.named_modules() if getattr(m, "weight", None) is not None]
        known = f"This model has: {listed(sorted({n.rpartition('.')[2] for n in names}))}"
        if isinstance(self.target_modules, list):
            for target in self.target_modules:
                if not any(f".{n}".endswith(f".{target}") for n in names):
                    raise SetupError(f"{self.name}: target_modules: no weight is called '{target}'. {known}")
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            check_pattern(f"{self.name}: target_modules", self.target_modules, names)
        try:
            with warnings.catch_warnings(), self.installing(model):
                for said in [IGNORED, *(UNMATCHED[name] for name in UNMATCHED if getattr(self, name, None))]:
                    warnings.filterwarnings("error", message=said)
                adapted = with_peft(model, self.peft_config(model))
        except (ValueError, TypeError, NotImplementedError, UserWarning, RuntimeWarning) as error:
            reason = " ".join(str(error).split()).removesuffix(".")
            if "specify `target_modules`" in reason:
                raise SetupError(
                    f"{self.name}: target_modules null: PEFT has no list for {model.config.model_type}. {known}"
                ) from None
            names_help = f". {known}" if "not found" in reason or "arget module" in reason else ""
            where = "" if self.target_modules is None else f" target_modules {self.target_modules}:"
            raise SetupError(f"{self.name}:{where} {reason}{names_help}") from None
        self.check_ranks(adapted)
        return adapted

    def check_ranks(self, adapted: "nn.Module") -> None:
        """Raise SetupError if a rank is larger than the smaller side of every adapted weight: none has such a rank."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers: list[Any] = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        for field in self.ranks if shapes else ():
            rank, largest = getattr(self, field) or 0, max(shapes, key=min)
            if rank > min(largest):
                raise SetupError(
                    f"{self.name}: {field}: {rank} is more than a weight of shape {largest} allows. Try: {field}: "
                    f"{min(largest)} or less, or other target_modules"
                )


class LinearOnly(Injected):
    """A method that PEFT has for plain linear layers alone: GPT-2's get twins, and weights in few bits are refused."""

    takes_bits: ClassVar[tuple[int, ...]] = ()
    takes_transposed: ClassVar[bool] = False


def check_pattern(where: str, pattern: str, names: list[str]) -> None:
    """Raise SetupError if matching a pattern with a model's names takes too long, as backtracking can.

    It is tried in a separate process, since nothing else stops a regular expression once it has begun.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", MATCH],
        input=json.dumps([pattern, names, PATTERN_SECONDS]), text=True, check=False, capture_output=True,
    )  # fmt: skip
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise SetupError(
            f"{where}: {pattern!r:.100} takes more than {PATTERN_SECONDS} s to match the model's names. "
            "Try: a list of names, as in [q_proj], or a pattern without repeats in repeats"
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"matching ended with {done.returncode}"])[-1]
        raise SetupError(f"{where}: {pattern!r:.100}: {reason:.200}")

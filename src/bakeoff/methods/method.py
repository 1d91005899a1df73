"""The base class of methods, and their register.

A method is one frozen class: its fields are hyper-parameters with PEFT's names, and `adapt` adds it to a model. The
training loop needs nothing else. This module does not import torch, so that configs are checked without it.
"""

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from bakeoff.config.sections import Section
from bakeoff.errors import ConfigError, did_you_mean, in_line, plain
from bakeoff.library_errors import HangsError, contained
from bakeoff.store.records import Quantize

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Method(Section, ABC):
    """A way to adapt a model. Subclasses add their hyper-parameters as fields and implement `adapt`."""

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    search_range: ClassVar[dict[str, tuple[float, float]]] = {}
    starts_as_base: ClassVar[bool] = False  # before the first step its loss is the base's, exactly; every run checks it
    checkpointable: ClassVar[bool] = True  # whether it trains under protocol.gradient_checkpointing
    keeps_base: ClassVar[bool] = True  # the base's weights that it does not train stay as they were loaded
    tiny: ClassVar[dict[str, Any]] = {}  # settings for a model of width 16, where the defaults do not fit one
    moving: ClassVar[frozenset[str]] = frozenset()  # fields of PEFT's config that training changes
    more_fields: ClassVar[bool] = False  # whether it has others, depending on its settings
    quantize: ClassVar[Quantize | None] = None  # how its base is always stored, where the name of the method says so
    exact_in_half: ClassVar[bool] = True  # else only in fp32: over a base in bf16 or fp16 its products round otherwise

    learning_rate: float = Field(gt=0, description="peak learning rate of AdamW")
    optimizer: Literal["adamw", "muon", "schedule_free", "adamw_8bit"] = Field(
        "adamw",
        description="adamw; muon: matrices are changed by orthogonal steps (Jordan et al. 2024) of AdamW's size, so "
        "that learning rates mean the same, and all other weights by AdamW; schedule_free: AdamW whose learning rate "
        "stays at its peak, since it ends with an average of its steps (Defazio et al. 2024); adamw_8bit: AdamW that "
        "keeps its moments in eight bits (Dettmers et al. 2021); a list of several: which one is searched",
    )

    def starts_exactly(self, precision: str) -> bool:
        """Return whether the loss before the first step equals that of a base of this precision.

        On a CPU it does so bit for bit; on a GPU, kernels may round in another way.
        """
        return self.starts_as_base and (self.exact_in_half or precision == "fp32")

    @property
    def virtual_tokens(self) -> int:
        """The number of positions of the context that the method takes."""
        return 0

    @classmethod
    def specific(cls, settings: Mapping[str, Any], where: str) -> "type[Method]":
        """Return the class for an entry's settings; only `peft` has several, one for each config of PEFT.

        Raises ConfigError, beginning with `where`, if there is none.
        """
        return cls

    def prepared(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """Return the base, changed in place, with the layers that the method adapts; most take it as it is.

        What it computes, and the names of its weights, stay the same.
        """
        return model

    @abstractmethod
    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return `model`, adapted: exactly the parameters to be trained require gradients.

        `model` may be changed. `tokenizer` is None if only shapes matter (a plan on the meta device).
        """

    def check_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raise SetupError if a setting does not fit the base's tokenizer; a plan calls this before anything runs."""

    def start(self, adapted: "nn.Module", batches: "Sequence[Any]", forward: "Callable[[nn.Module, Any], Any]") -> None:
        """Compute initial values from data: `forward(adapted, batch)` calls the model on a batch of training `batches`.

        It is called once, before anything is trained or measured. Most methods need nothing.
        """

    def lr_scale(self, name: str) -> float:
        """Return the factor of the learning rate for the trained weight of this name."""
        return 1.0

    def before_step(self, adapted: "nn.Module") -> None:
        """Add the gradient of a penalty to the gradients of a batch; most methods have no penalty."""

    def after_step(self, adapted: "nn.Module", step: int, steps: int) -> None:
        """Do what the method needs after optimizer step `step` of `steps` (from 1); gradients still exist."""

    def finish(self, adapted: "nn.Module", validation_loss: "Callable[[], float]") -> bool:
        """Change the trained weights once more after the last step, when they are the best ones of the training.

        `validation_loss` measures the model as it is. Returns whether the weights were changed; most methods have
        nothing left to do.
        """
        return False

    def may_stay_unchanged(self, name: str) -> bool:
        """Return whether the trained weight of this name may end as it started. Every run checks all others."""
        return False

    def state(self, adapted: "nn.Module") -> "dict[str, torch.Tensor]":
        """Return what `after_step` has gathered besides the trained weights, so that a stopped training can resume."""
        return {}

    def restore(self, adapted: "nn.Module", state: "dict[str, torch.Tensor]") -> None:
        """Put back what `state` returned; raise ValueError, and change nothing, if it is another model's."""

    def save(self, adapted: "nn.Module", folder: Path) -> None:
        """Write the adapter into `folder`, in PEFT's format."""
        adapted.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]

    def as_saved(self, model: "PreTrainedModel") -> "nn.Module":
        """Return `model`, adapted so that what `save` writes fits; for most methods this is the same as in training."""
        return self.adapt(model, None)

    def load(self, model: "PreTrainedModel", folder: Path) -> "nn.Module":
        """Return `model` with the adapter in `folder` on it, frozen.

        Raises SetupError if the adapter is not what `save` writes for this model with these settings.
        """
        from bakeoff.methods.saved import load_peft

        adapted: Any = self.as_saved(model)
        with quiet_peft():
            return load_peft(adapted, folder, self.moving).requires_grad_(False)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence warnings of PEFT 0.21 and transformers 5.23 that do not matter here.

    PEFT uses the old name of a property. It does not list normalisations among the layers that it can copy, though it
    copies them well.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
        warnings.filterwarnings("ignore", message="You have passed exclude_modules", category=UserWarning)
        warnings.filterwarnings("ignore", message="Detected that the base layer has no bias", category=UserWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def with_peft(model: "PreTrainedModel", config: Any) -> "PeftModel":
    """Return the model wrapped by PEFT; `config` must be new, since PEFT changes it."""
    from peft import get_peft_model

    with quiet_peft():
        return get_peft_model(model, config)


def beside_text(model: "PreTrainedModel") -> list[str]:
    """Return the names of the parts that no text passes, such as a vision tower beside a text decoder.

    Weights added there would be counted and saved, but never trained.
    """
    config = model.config
    if config.is_encoder_decoder or config.get_text_config(decoder=True) is config:
        return []
    inside = {*model.get_decoder().modules(), model.get_output_embeddings(), model.get_input_embeddings()}
    names: list[str] = []
    for name, module in model.named_modules():
        below = any(name.startswith(f"{part}.") for part in names)
        if name and not below and not any(inner in inside for inner in module.modules()):
            names.append(name)
    return names


def passes_text(name: str, beside: Sequence[str]) -> bool:
    """Return whether a module or weight of this name is outside of the parts that no text passes."""
    return not any(f"{name}.".startswith(f"{part}.") for part in beside)


def task_type(model: "PreTrainedModel") -> str:
    """Return PEFT's name for the kind of model: causal or encoder-decoder."""
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


M = TypeVar("M", bound=type[Method])
_REGISTER: dict[str, type[Method]] = {}
LOAD_SECONDS = 120.0  # that a plug-in has: it may import large libraries from a slow disk
UNLOADED: dict[str, str] = {}  # entry points of other packages that failed, with the reason


def register(name: str) -> Callable[[M], M]:
    """Return a class decorator that registers a method as `name`."""

    def add(cls: M) -> M:
        cls.name = name
        _REGISTER[name] = cls
        return cls

    return add


def method_class(name: str, where: str = "methods") -> type[Method]:
    """Return the method called `name`; raise ConfigError with a suggestion if there is none."""
    if name not in _REGISTER:
        raise ConfigError(f"{where}: unknown method '{name}'.{did_you_mean(name, _REGISTER)}{unloaded()}")
    return _REGISTER[name]


def load_plug_in(entry_point: EntryPoint) -> None:
    """Load another package's methods; if its module fails, hangs or ends the process, `UNLOADED` says why.

    Then none of its methods is known. What it prints goes to standard error: standard output is for results of
    commands.
    """
    before = dict(_REGISTER)
    try:
        with redirect_stdout(sys.stderr), contained(LOAD_SECONDS):
            entry_point.load()
    except (
        Exception,
        SystemExit,
        HangsError,
    ) as error:  # of a module that may do anything: no command ends for its sake
        _REGISTER.clear()
        _REGISTER.update(before)
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        UNLOADED[entry_point.name] = f"{type(error).__name__}: {reason}"


def unloaded() -> str:
    """Return in a sentence which plug-ins could not be loaded, and why; empty if all could."""
    return "".join(f" Plug-in '{name}' is not loaded ({reason:.200})." for name, reason in UNLOADED.items())


def method_names() -> list[str]:
    """Return the registered methods' names, sorted."""
    return sorted(_REGISTER)


def build_method(entry: str, settings: dict[str, Any]) -> Method:
    """Return the method of a config entry; raise ConfigError if a field is unknown or out of range."""
    where = f"entries.{entry}"
    values = dict(settings)
    cls = method_class(str(values.pop("method", entry)), where).specific(values, where)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}{refusal(cls, error)}") from None


def refusal(cls: type[Method], error: ValidationError) -> str:
    """Return what is wrong with an entry's settings, as the end of a line that begins with the entry."""
    first, *others = error.errors()
    key = ".".join(in_line(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f": '{key}' is not a field of {cls.name}.{did_you_mean(key, cls.model_fields)}"
    if first["type"] == "missing":
        return f".{key}: field required: {cls.model_fields[key].description}. Try: bakeoff methods {cls.name}"
    kinds = [e for e in others if e["loc"][:1] == first["loc"][:1]]  # of a field that may be of several kinds
    if not kinds or len(first["loc"]) < 2:
        return f"{'.' if key else ''}{key}: {plain(first)}"
    allowed = [plain(e).partition(", got ")[0].partition(" (got ")[0] for e in (first, *kinds)]
    return f".{in_line(first['loc'][0])}: {', or '.join(dict.fromkeys(allowed))} (got {first['input']!r:.60})"

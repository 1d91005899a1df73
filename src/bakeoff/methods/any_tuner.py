"""Any tuner of PEFT by the name of its config, with that config's fields as the fields of the entry."""

import dataclasses
import enum
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic import Field, create_model

from bakeoff.errors import ConfigError, SetupError, did_you_mean
from bakeoff.methods.injected import Injected
from bakeoff.methods.method import Method, method_class, method_names, register

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OWN = "has a method of its own, with what its training needs. Try: method: "
# Configs that are not enough for a training, or for one that can be compared, by the reason.
REFUSED = {
    "AdaLoraConfig": OWN + "adalora",
    "AdamssConfig": "finds by clustering each weight's values how many numbers it trains, which no plan can count",
    "AdaptionPromptConfig": OWN + "adaption_prompt",
    "CPTConfig": "trains on the texts of its prompt too, by a loss of its own",
    "CartridgeConfig": OWN + "cartridge",
    "FrodConfig": OWN + "frod",
    "IA3Config": OWN + "ia3",
    "LNTuningConfig": OWN + "layer_norm",
    "LilyConfig": "weighs its factors by their mean over all tokens of a batch, so that a text's output depends on its "
    "batch mates, and on the tokens that follow",
    "MultitaskPromptTuningConfig": "learns from several tasks, and a bakeoff has one. Try: method: prompt_tuning",
    "PolyConfig": "learns which LoRA serves which of several tasks, and a bakeoff has one. Try: method: lora",
    "PrefixTuningConfig": OWN + "prefix_tuning",
    "PromptEncoderConfig": OWN + "p_tuning",
    "PromptTuningConfig": OWN + "prompt_tuning",
    "ShadowConfig": "trains a second model that runs beside the base, with a loss and a cache of its own",
    "TrainableTokensConfig": OWN + "trainable_tokens",
    "UniLoraConfig": OWN + "unilora",
    "XLoraConfig": "mixes LoRAs that were trained before, and every entry starts from the base. Try: method: lora",
}
# What a run sets itself, what names the machine, and what would train or save parts of the base as well.
SET_ELSEWHERE = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode", "modules_to_save",
    "peft_type", "peft_version", "progressbar", "revision", "save_projection", "target_modules", "task_type",
}  # fmt: skip
# Fields that are left out, by the reason.
NEEDS_MORE = "needs more than a config"
MOVES = "moves weights in the forward pass, so that a training which stopped would end with others"
LEFT_OUT = {
    "alora_invocation_tokens": NEEDS_MORE,
    "apply_GS": "makes every loss not a number: the planes start as equal pairs, which cannot be made orthogonal",
    "bias": "trains biases of the base itself, which every adapter leaves as they are. Try: an entry with method: bias",
    "coft": MOVES,
    "ensure_weight_tying": "is for parts of the base that are trained whole, which no adapter here has",
    "eps": MOVES,
    "generator_seed": "draws numbers that no checkpoint has, so that a training which stopped would end with others",
    "layer_replication": "makes another base. Try: a model folder with these layers as `model`",
    "lora_bias": "cannot be added to the matrices of a base without biases",
    "megatron_config": NEEDS_MORE,
    "megatron_core": NEEDS_MORE,
    "qalora_group_size": NEEDS_MORE,
    "sample_at_inference": "makes outputs random, and all entries are decoded greedily",
    "use_qalora": NEEDS_MORE,
}
PLAIN = (bool, int, float, str, NoneType)


@register("peft")
class AnyTuner(Injected):
    """Any tuner of PEFT: `config` is the name of its config, whose fields are fields of the entry (PEFT)."""

    paper: ClassVar[str] = "https://huggingface.co/docs/peft"
    config_class: ClassVar[str] = ""
    starts_as_base: ClassVar[bool] = False  # no claim: it depends on the tuner
    more_fields: ClassVar[bool] = True
    tiny: ClassVar[dict[str, Any]] = {"config": "LoHaConfig"}

    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="peak learning rate of AdamW; its default and search range are those of the config's own method",
    )
    config: str = Field(description="name of a config of PEFT, such as OFTConfig; its fields can be set, too")

    @classmethod
    def specific(cls, settings: Mapping[str, Any], where: str) -> type[Method]:
        """Return the class with the fields of the config that the settings name."""
        if "config" not in settings:
            return cls  # which says that it is missing
        name, known = settings["config"], configs()
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{where}.config: unknown {name!r:.60}.{did_you_mean(str(name), known)}")
        if name in REFUSED:
            raise ConfigError(f"{where}.config: {name} {REFUSED[name]}")
        for field in (f for f in settings if f in LEFT_OUT and f in known[name].__dataclass_fields__):
            raise ConfigError(f"{where}.{field}: {name}'s {field} is left out: it {LEFT_OUT[field]}")
        if settings.get("init_lora_weights") == "eva":
            raise ConfigError(f"{where}.init_lora_weights: eva starts from training examples. Try: method: eva")
        return for_config(name)

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if these settings change weights of the base."""
        weights = dict(self.prepared(model).named_parameters())
        before = {name: total(weight) for name, weight in weights.items()}
        adapted = super().adapt(model, tokenizer)
        changed = [name for name, weight in weights.items() if total(weight) != before[name]]
        if changed:
            raise SetupError(
                f"{self.name}: {self.config}: changes weights of the base at the start ({changed[0]} first), which a "
                "saved adapter does not hold. Try: other init settings, or the method pissa or olora"
            )
        return adapted


@cache
def configs() -> dict[str, Any]:
    """Return PEFT's configs by their names."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {config.__name__: config for config in PEFT_TYPE_TO_CONFIG_MAPPING.values()}


def own_class(name: str) -> type[Injected]:
    """Return the method that comes with bakeoff for a config of PEFT."""
    every = map(method_class, method_names())
    return next(cls for cls in every if issubclass(cls, Injected) and vars(cls).get("config_class") == name)


@cache
def for_config(name: str) -> type[AnyTuner]:
    """Return the class of an entry with a config of PEFT: its fields but for those that are no plain data.

    A field keeps PEFT's type, default and, as description, help. Everything else is that of the tuner's own method: its
    search range, what PEFT needs while it adds the tuner, and which bases it takes.
    """
    config, own = configs()[name], own_class(name)
    hints = get_type_hints(config)
    fields: dict[str, Any] = {
        key: (field.annotation, field)
        for key, field in own.model_fields.items()
        if key in ("learning_rate", "target_modules")
    }
    for field in dataclasses.fields(config):
        known = field.name in SET_ELSEWHERE | LEFT_OUT.keys() | AnyTuner.model_fields.keys()
        if known or not is_plain(hints[field.name]):
            continue
        how: dict[str, Any] = {"description": " ".join(str(field.metadata.get("help", "see PEFT")).split())}
        if field.default_factory is not dataclasses.MISSING:
            how["default_factory"] = field.default_factory
        elif field.default is not dataclasses.MISSING:
            how["default"] = field.default
        fields[field.name] = (hints[field.name], Field(**how))
    made: Any = type(f"AnyTuner{name}", (AnyTuner, own), {"config_class": name, "fixed": {}})
    return cast("type[AnyTuner]", create_model(made.__name__, __base__=made, __doc__=AnyTuner.__doc__, **fields))


def is_plain(kind: Any) -> bool:
    """Return whether a type is one that YAML has, or is made of such types."""
    if get_origin(kind) is Literal:
        return all(isinstance(value, PLAIN) for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType, list, tuple, dict):
        return all(map(is_plain, get_args(kind)))
    return kind in (*PLAIN, list, dict) or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def total(weight: "torch.Tensor") -> float:
    """Return the sum of a weight's numbers, by which it is seen whether some have changed; 0 of shapes alone.

    Rows are summed in fp32, for which a GPU copies no weight: in fp64 an embedding of 600 million numbers would take
    5 GB once more. Their sums are added in fp64, so that a small change is not lost in a large weight.
    """
    import torch

    if weight.device.type == "meta":
        return 0.0
    return float(weight.detach().sum(-1, dtype=torch.float32).cpu().double().sum())

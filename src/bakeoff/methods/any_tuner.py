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
# What a run sets itself, and what names the machine.
SET_ELSEWHERE = {
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "peft_type", "peft_version",
    "progressbar", "revision", "save_projection", "task_type",
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
    "exclude_modules": "names what target_modules can leave out. Try: target_modules, as names or a regular expression",
    "generator_seed": "draws numbers that no checkpoint has, so that a training which stopped would end with others",
    "layer_replication": "makes another base. Try: a model folder with these layers as `model`",
    "lora_bias": "cannot be added to the matrices of a base without biases",
    "megatron_config": NEEDS_MORE,
    "megatron_core": NEEDS_MORE,
    "modules_to_save": "trains whole parts of the base beside the tuner. Try: an entry with method: last_layers",
    "qalora_group_size": NEEDS_MORE,
    "sample_at_inference": "makes outputs random, and all entries are decoded greedily",
    "use_qalora": NEEDS_MORE,
}
# Words of LoRA's init_lora_weights that name no start of the adapter alone, by the reason.
FROM_EXAMPLES = "starts from training examples, by steps of its own before the first"
STARTS_OTHERWISE = {
    "corda": f"{FROM_EXAMPLES}. Try: method: eva",
    "eva": f"{FROM_EXAMPLES}. Try: method: eva",
    "loftq": "makes another base, of fewer bits. Try: method: qlora",
    "olora": "changes weights of the base at the start. Try: method: olora",  # through `data`, which no shape shows
}
# Numbers that scale all that is trained, or its gradients: at 0 nothing would be trained.
SCALES = {
    "alpha", "d_initial", "delora_lambda", "init_scale", "lora_alpha", "psoft_alpha", "randlora_alpha", "scaling",
}  # fmt: skip
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
            raise ConfigError(f"{where}.config: unknown {name!r:.60}.{config_like(str(name))}")
        if name in REFUSED:
            raise ConfigError(f"{where}.config: {name} {REFUSED[name]}")
        left_out = dict.fromkeys(SET_ELSEWHERE, "is set by every run itself. Remove it") | LEFT_OUT
        for field in (f for f in settings if f in left_out and f in known[name].__dataclass_fields__):
            raise ConfigError(f"{where}.{field}: {name}'s {field} is left out: it {left_out[field]}")
        word = settings.get("init_lora_weights")
        if isinstance(word, str) and word in STARTS_OTHERWISE:
            raise ConfigError(f"{where}.init_lora_weights: {word} {STARTS_OTHERWISE[word]}")
        return for_config(name)

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if these settings change weights of the base."""
        self.check_places(model)
        weights = dict(self.prepared(model).named_parameters())
        before = {name: content(weight) for name, weight in weights.items()}
        adapted = super().adapt(model, tokenizer)
        changed = [name for name, weight in weights.items() if content(weight) != before[name]]
        if changed:
            raise SetupError(
                f"{self.name}: {self.config}: changes weights of the base at the start ({changed[0]} first), which a "
                "saved adapter does not hold. Try: other init settings, or the method pissa or olora"
            )
        return adapted

    def check_places(self, model: "PreTrainedModel") -> None:
        """Raise SetupError if settings name blocks or tokens that the model does not have; PEFT passes them over."""
        text = model.config.get_text_config(decoder=True)
        names = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
        blocks = max(getattr(text, name, None) or 0 for name in names)
        tokens = model.get_input_embeddings().weight.shape[0]
        for field, count in (("layers_to_transform", blocks), ("trainable_token_indices", tokens)):
            wrong = [i for i in numbers(getattr(self, field, None)) if not 0 <= i < (count or i + 1)]
            if wrong:
                raise SetupError(f"{self.name}: {field}: no {wrong[0]} in this model. Allowed: 0 to {count - 1}")


def numbers(value: Any) -> list[int]:
    """Return the whole numbers of a setting that is one, a list of them, or such lists by name."""
    if isinstance(value, dict | list):
        return [i for inner in (value.values() if isinstance(value, dict) else value) for i in numbers(inner)]
    return [] if value is None else [value]


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
        known = field.name in {*SET_ELSEWHERE, *LEFT_OUT, *AnyTuner.model_fields}
        if known or not is_plain(hints[field.name]):
            continue
        said = " ".join(str(field.metadata.get("help", "see PEFT")).split())
        how: dict[str, Any] = {"description": said, **bounds(field.name)}
        if field.default_factory is not dataclasses.MISSING:
            how["default_factory"] = field.default_factory
        elif field.default is not dataclasses.MISSING:
            how["default"] = field.default
        fields[field.name] = (hints[field.name], Field(**how))
    made: Any = type(f"AnyTuner{name}", (AnyTuner, own), {"config_class": name, "fixed": {}})
    return cast("type[AnyTuner]", create_model(made.__name__, __base__=made, __doc__=AnyTuner.__doc__, **fields))


def bounds(field: str) -> dict[str, float]:
    """Return what a number must be so that something is trained, as in the methods of their own; PEFT takes any."""
    if field in SCALES:
        return {"gt": 0}
    return {"ge": 0, "lt": 1} if field.endswith("dropout") else {}


def config_like(name: str) -> str:
    """Return a hint to the config that is meant: of a tuner's name its config."""
    allowed = configs().keys() - REFUSED.keys()
    whole = next((config for config in allowed if config.lower() == f"{name.lower()}config"), name)
    return did_you_mean(whole, allowed)


def is_plain(kind: Any) -> bool:
    """Return whether a type is one that YAML has, or is made of such types."""
    if get_origin(kind) is Literal:
        return all(isinstance(value, PLAIN) for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType, list, tuple, dict):
        return all(map(is_plain, get_args(kind)))
    return kind in (*PLAIN, list, dict) or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def content(weight: "torch.Tensor") -> Any:
    """Return what differs if a weight's numbers were changed: their sum, or of shapes alone where they are kept.

    Rows are summed in fp32, for which a GPU copies no weight: in fp64 an embedding of 600 million numbers would take
    5 GB once more. Their sums are added in fp64, so that a small change is not lost in a large weight.
    """
    import torch

    if weight.device.type == "meta":
        return weight.untyped_storage(), weight._version
    return float(weight.detach().sum(-1, dtype=torch.float32).cpu().double().sum())

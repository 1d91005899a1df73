"""The base model: loading it, its size, and adapting it.

This module does not know data sets, losses or optimizers.
"""

from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from bakeoff.compute.model.device import CPU, use
from bakeoff.compute.model.kernels import fuse, skip_casts
from bakeoff.compute.model.loading import (
    check_tokenizer,
    check_weights_fit,
    empty_model,
    from_weights,
    load_shape,
    load_tokenizer,
    read_config,
)
from bakeoff.compute.model.merging import merge
from bakeoff.compute.model.quantization import check, loading_options, settle, shape_in
from bakeoff.compute.model.team import ALONE, Team
from bakeoff.config.sections import LATEST, Pin
from bakeoff.errors import SetupError
from bakeoff.hub import model_folder, on_hub
from bakeoff.methods import Method
from bakeoff.store.records import Quantize

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
READS_BOTH_WAYS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


@dataclass
class Base:
    """A loaded base model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Any
    device: torch.device
    precision: str  # one of DTYPES
    cached: bool = True  # whether what the model keeps of a text can be used; some architectures keep it in other ways
    head_alone: bool = False  # whether logits are known to be what the head puts out
    quantize: Quantize = "none"  # how its matrices were packed while it was loaded
    stops: frozenset[int] = frozenset()  # ids that end an output, besides the tokenizer's end of text
    lent: bool = False  # other runs get it after this one: its weights are copied before they are changed in place
    team: Team = ALONE  # the processes that share its run
    beside: int = 0  # how many other runs may have the same device at the same time
    own: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)  # its weights, which a team may share out

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end an output."""
        return self.stops | {self.tokenizer.eos_token_id}

    @property
    def pad(self) -> int:
        """An id to fill up rows with; nothing is ever read at its places, so any id will do."""
        return self.tokenizer.eos_token_id

    @property
    def decoder_start(self) -> int | None:
        """The id that an encoder-decoder's decoder starts from; None for a causal model."""
        return self.model.config.decoder_start_token_id if self.model.config.is_encoder_decoder else None


def load_base(
    name: str, precision: str, pin: Pin = LATEST, quantize: Quantize = "none", device: torch.device = CPU,
    team: Team = ALONE,
) -> Base:  # fmt: skip
    """Return the base model in eval mode with its tokenizer; raise SetupError if it cannot be loaded.

    `precision` is that of the frozen weights; `adapt` makes the weights that a method trains fp32. `quantize` packs the
    weight matrices while they are loaded. If a `team` shares them out, they are in the host's memory until `spread`.
    """
    use(device)
    team.turns = None
    place = CPU if team.sharded else device
    model, tokenizer = load_model(name, precision, pin, quantize, place), load_tokenizer(name, pin)
    check_tokenizer(name, tokenizer, model)
    if on_hub(name):
        model.name_or_path = model.config._name_or_path = name  # adapters name the model, not where its files lie
    fuse(model, device)
    own = WeakIdKeyDictionary(dict.fromkeys(model.parameters()))
    return Base(model, tokenizer, device, precision, quantize=quantize, team=team, own=own)


def load_model(name: str, precision: str, pin: Pin, quantize: Quantize, device: torch.device) -> PreTrainedModel:
    """Return the base's model alone, in eval mode; raise SetupError if it cannot be loaded."""
    dtype = DTYPES[precision]
    folder = model_folder(name, pin)
    check_weights_fit(name, pin, folder)  # before anything has memory
    config = read_config(name, pin, folder)
    check(name, config, quantize)
    how = loading_options(config, quantize, dtype)
    model = from_weights(name, pin, folder, dtype=dtype, device_map={"": device}, **how)
    settle(model, dtype)
    set_up(model)
    return model.eval()


def set_up(model: PreTrainedModel) -> None:
    """Prepare a model, on any device, so that runs and plans can call it."""
    attend_globally(model)
    if not model.config.is_encoder_decoder:
        # Else transformers warns of ids without a mask, which right padding needs not, and looks for padding in ids
        # that have no values. Past the config's own check, since some want a number.
        vars(model.config)["pad_token_id"] = None


def attend_globally(model: PreTrainedModel) -> None:
    """Let the first token of each text attend to all others, and they to it, if the caller must ask for that.

    LED is trained and used so; without it a long text's parts see nothing of each other.
    """
    encoder = model.get_encoder() if model.config.is_encoder_decoder else None
    if encoder is None or "global_attention_mask" not in signature(encoder.forward).parameters:
        return

    def first(_: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = inputs.get("input_ids")
        given = inputs.get("inputs_embeds") if given is None else given
        if given is not None and inputs.get("global_attention_mask") is None:
            inputs["global_attention_mask"] = torch.zeros(given.shape[:2], dtype=torch.long, device=given.device)
            inputs["global_attention_mask"][:, 0] = 1
        return args, inputs

    encoder.register_forward_pre_hook(first, with_kwargs=True)


def shape_only(name: str, pin: Pin = LATEST, quantize: Quantize = "none") -> PreTrainedModel:
    """Return the model on the meta device: every shape, no weight, and no network for the shapes known here."""
    config = load_shape(name, pin)
    check(name, config, quantize)
    architectures = config.architectures or []
    if not config.is_encoder_decoder and any(a.endswith(READS_BOTH_WAYS) for a in architectures):
        raise SetupError(
            f"model: {name}: {architectures[0]} does not generate text. Allowed: a causal language model or an "
            "encoder-decoder"
        )
    model = empty_model(name, pin, config)
    set_up(model)
    if getattr(config, "scale_decoder_outputs", True) is False:
        # T5 1.1 and FLAN-T5: transformers 5 calls their head tied, and unties it once it reads the weights.
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight, device="meta"))
    return shape_in(model, quantize)


def adapt(base: Base, method: Method, gradient_checkpointing: bool = False) -> nn.Module:
    """Return the base adapted by `method` and made ready to train: trained weights fp32, frozen parts in eval mode."""
    base_modules = set(base.model.modules())
    adapted = nn.Module.to(method.adapt(base.model, base.tokenizer), base.model.device)  # transformers' own may refuse
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32, copy=base.lent)
    skip_casts(adapted)
    set_modes(base.model, base_modules)
    if gradient_checkpointing:
        base.model.activation_checkpointing_enable({"use_reentrant": False})
        for module in base.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # only such blocks recompute; what is inside them keeps its mode
    return adapted


def set_modes(module: nn.Module, base_modules: set[nn.Module]) -> None:
    """Set trained modules to train mode and the rest to eval mode.

    Added modules are trained, and base parts as a whole. Dropout in a frozen part would make the loss noisy for
    nothing, and cost its random numbers (protocol rule 4).
    """
    weights = list(module.parameters())
    if module not in base_modules or (weights and all(p.requires_grad for p in weights)):
        module.train()
        return
    module.training = False
    for child in module.children():
        set_modes(child, base_modules)


def for_decoding(base: Base, adapted: nn.Module, precision: str) -> Base:
    """Return the base as greedy decoding calls it: if `precision` is fp32, weights become fp32 and adapters merged.

    Both happen in place. A bf16 product rounds by the shape of its batch, and one flipped near tie changes all that
    follows: on the docstring task 2 outputs of 24 differed between batches of 1 and 16. On a CPU no output in fp32
    does; a GPU's libraries choose kernels by shape, so that there a near tie can flip too, more seldom.
    """
    if precision == "fp32":
        in_fp32(adapted)
        merge(adapted, base.lent)
    return replace(base, precision=precision)


def in_fp32(adapted: nn.Module) -> None:
    """Make all weights fp32 in place, and the products of packed ones."""
    nn.Module.float(adapted)  # transformers' own refuses what is packed, of which this changes nothing
    layers: list[Any] = [module for module in adapted.modules() if hasattr(module, "compute_dtype")]
    for layer in layers:  # in four bits, whose products are in a precision of their own
        layer.compute_dtype = torch.float32


def trainable(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters to be trained by name."""
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}


def count_parameters(adapted: nn.Module) -> tuple[int, int]:
    """Return (trainable, total) parameters; a weight that two modules share counts once, four bits as one parameter."""
    packed = (getattr(p, "quant_state", None) for p in adapted.parameters())
    sizes = (s.shape.numel() if s else p.numel() for s, p in zip(packed, adapted.parameters(), strict=True))
    return sum(p.numel() for p in trainable(adapted).values()), sum(sizes)


def inner(adapted: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside, with whatever the method has injected into it."""
    return adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted  # type: ignore[operator]


def context_of(base: Base) -> int | None:
    """Return how many tokens a base reads; None if its config sets no limit."""
    return getattr(base.model.config.get_text_config(decoder=True), "max_position_embeddings", None)

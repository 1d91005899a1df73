"""How an adapter changes one module of its base, in the form that is cheapest for rows of many adapters together.

A method's own module is always right: its rows are computed apart. Where the change of a linear map is a few thin
numbers per row, the base's product is made once for all rows. `changes` compares an adapted copy with the base.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vblora.layer import VBLoRALayer
from peft.tuners.vera.layer import VeraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from bakeoff.methods.method import quiet_peft

LINEAR = (nn.Linear, Conv1D)
THIN = 4  # a low-rank product pays up to the width over this


@dataclass(eq=False)
class Own:
    """A module that computes its rows apart from all others."""

    module: nn.Module


@dataclass(eq=False)
class Thin:
    """A change of a linear map: y = gain * (W (scale * x)) + shift + up (down x), with what is None left out.

    `down` (rank, inputs), `up` (rank, outputs), `scale` (inputs,), `gain` and `shift` (outputs,).
    """

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    gain: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Lay factors out as they are copied and multiplied fastest."""
        self.down = None if self.down is None else self.down.contiguous()
        self.up = None if self.up is None else self.up.contiguous()
        self.fields = tuple(name for name, value in vars(self).items() if value is not None)


@dataclass(eq=False)
class Vectors:
    """Other values (width,) of the parameters of a module that uses them elementwise, as normalisations do."""

    values: dict[str, torch.Tensor]


Form = Own | Thin | Vectors


class CannotMixError(Exception):
    """An adapter cannot share the modules of its base with others."""


def changes(base: nn.Module, adapted: nn.Module) -> dict[str, Form]:
    """Return, by the module's name, how an adapted copy of a base differs from it.

    Raises CannotMixError if the difference is not one of single modules.
    """
    others, found = dict(adapted.named_modules()), dict[str, Form]()
    for name, module in base.named_modules():
        if any(name.startswith(f"{changed}.") for changed in found):
            continue
        other = others.get(name)
        if other is None:
            raise CannotMixError(f"{name} is missing")
        if type(other) is type(module) and not (differing := differences(module, other)):
            continue
        if next(module.children(), None) is not None or isinstance(module, nn.ModuleList):
            raise CannotMixError(f"{name} has parts")
        found[name] = (
            form_of_layer(other) if type(other) is not type(module) else form_of_weights(module, other, differing)
        )
    return found


def differences(module: nn.Module, other: nn.Module) -> list[str]:
    """Return the names of a module's own parameters that have other values in its copy."""
    theirs = other._parameters
    if module._parameters.keys() != theirs.keys():
        return [*module._parameters]
    return [name for name, own in module._parameters.items() if own is not None and not same(own, theirs[name])]


def same(own: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Return whether two weights are one, or equal."""
    if other is own or other is None:
        return other is own
    if other.shape != own.shape:
        return False
    return other.data_ptr() == own.data_ptr() or torch.equal(own, other)


def form_of_weights(module: nn.Module, other: nn.Module, differing: list[str]) -> Form:
    """Return how a module with other weights of its own differs."""
    if isinstance(module, LINEAR) and differing == ["bias"] and module.bias is not None:
        return Thin(shift=other.get_parameter("bias") - module.bias)
    vectors = all(p is None or p.ndim == 1 for p in module._parameters.values())
    return vectors_of(module, other) if vectors else Own(other)


def vectors_of(module: nn.Module, other: nn.Module) -> Form:
    """Return the vectors of a normalisation if it uses them elementwise, which is tried."""
    values = {name: p.data for name, p in other._parameters.items() if p is not None}
    width = max((len(p) for p in values.values()), default=0)
    x = torch.arange(2 * 3 * width, device=next(iter(values.values())).device).sin().view(2, 3, width)
    try:
        rows = {name: torch.stack([value, 2 * value]) for name, value in values.items()}
        found = with_vectors(module, rows, x)
        wanted = other(x[:1]), with_vectors(other, {n: row[1:] for n, row in rows.items()}, x[1:])
    except (RuntimeError, TypeError, ValueError):
        return Own(other)
    return Vectors(values) if torch.allclose(found, torch.cat(wanted), rtol=1e-5, atol=1e-6) else Own(other)


def with_vectors(module: nn.Module, rows: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return a normalisation of `x` (rows, ..., width) in which each row has its own vectors, (rows, width)."""
    shaped = {n: v.view(len(v), *[1] * (x.ndim - 2), -1) for n, v in rows.items()}
    if type(module) is not nn.LayerNorm:
        shell = copy(module)
        vars(shell).pop("forward", None)  # of an engine
        vars(shell)["_parameters"] = shaped
        return shell(x)
    out = nn.functional.layer_norm(x, module.normalized_shape, None, None, module.eps)
    out = out * shaped["weight"] if "weight" in shaped else out
    return out + shaped["bias"] if "bias" in shaped else out


def form_of_layer(layer: Any) -> Form:
    """Return how a layer of PEFT changes its base layer; a module of its own where it has no thinner form."""
    if isinstance(layer, LNTuningLayer):
        return vectors_or_own(layer)
    base = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
    if not isinstance(base, LINEAR):
        return Own(layer)
    for kind, form in FORMS.items():
        if isinstance(layer, kind) and (found := form(layer, base)) is not None:
            thin = found.down is None or len(found.down) * THIN <= min(base.weight.shape)
            return found if thin else merged(layer, base)
    return merged(layer, base)


def vectors_or_own(layer: Any) -> Form:
    """Return the vectors of PEFT's copy of a normalisation."""
    own = layer.ln_tuning_layers[layer.active_adapters[0]]
    vectors = all(p is None or p.ndim == 1 for p in own._parameters.values())
    return vectors_of(layer.base_layer, own) if vectors else Own(own)


def merged(layer: Any, base: Any) -> Form:
    """Return a linear map with the update added to copies of the base's weights; PEFT's layer where it cannot be."""
    if type(base.weight) is not nn.Parameter or base.weight.dtype != torch.float32:
        return Own(layer)
    for name, shared in [*base.named_parameters(recurse=False)]:  # PEFT adds in place, to biases too
        setattr(base, name, nn.Parameter(shared.detach().clone(), requires_grad=False))
    try:
        with quiet_peft():
            layer.merge()
    except (ValueError, NotImplementedError):
        return Own(layer)
    return Own(layer.get_base_layer())


def of_lora(layer: Any, base: Any) -> Thin | None:
    """Return a LoRA's factors; DoRA's also scale what the base puts out."""
    name = layer.active_adapters[0]
    down, up, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    if layer.lora_B[name].bias is not None:
        return None
    if name not in layer.lora_variant:
        return Thin(down, up.T * scaling)
    if not hasattr(layer, "lora_magnitude_vector") or name not in layer.lora_magnitude_vector:
        return None
    if type(base.weight) is not nn.Parameter or base.weight.dtype != torch.float32:
        return None
    dora = layer.lora_magnitude_vector[name]
    product = dora.get_lora_weight(lora_A=layer.lora_A[name], lora_B=layer.lora_B[name], adapter_name=name)
    gain = dora.weight / dora.get_weight_norm(base.weight, product, scaling, adapter_name=name)
    shift = None if base.bias is None else (1 - gain) * base.bias
    return Thin(down, up.T * (scaling * gain), gain=gain, shift=shift)


def of_adalora(layer: Any, _: Any) -> Thin:
    """Return an AdaLoRA's factors, with its singular values in the first."""
    name = layer.active_adapters[0]
    scaling = layer.scaling[name] / (layer.ranknum[name] + 1e-5)
    return Thin(layer.lora_A[name] * layer.lora_E[name], layer.lora_B[name].T * scaling)


def of_ia3(layer: Any, _: Any) -> Thin:
    """Return an IA3's vector, which scales what goes in or what comes out."""
    vector = layer.ia3_l[layer.active_adapters[0]].flatten()
    return Thin(scale=vector) if layer.is_feedforward else Thin(gain=vector)


def of_vera(layer: Any, _: Any) -> Thin:
    """Return a VeRA's factors with its scales in them."""
    name = layer.active_adapters[0]
    down = layer.vera_A[name][:, : layer.in_features] * layer.vera_lambda_d[name][:, None]
    return Thin(down, (layer.vera_B[name][: layer.out_features] * layer.vera_lambda_b[name][:, None]).T)


def of_vblora(layer: Any, _: Any) -> Thin:
    """Return the factors that a VB-LoRA mixes from its bank."""
    down, up = layer._get_lora_matrices(layer.active_adapters[0])
    return Thin(down, up.T)


FORMS: dict[type, Callable[[Any, Any], Thin | None]] = {
    AdaLoraLayer: of_adalora, LoraLayer: of_lora, IA3Layer: of_ia3, VeraLayer: of_vera, VBLoRALayer: of_vblora,
}  # fmt: skip

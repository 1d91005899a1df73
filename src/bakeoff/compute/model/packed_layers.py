"""Linear layers whose weights are packed in four or eight bits. Only a base that has such layers needs this module.

They differ from bitsandbytes' own in what a fair comparison needs: an example's result does not depend on its batch,
and a trained bias stays in fp32. Their names are bitsandbytes', by which PEFT knows them.
"""

from typing import Any

import bitsandbytes
import torch
from torch import nn


class Linear4bit(bitsandbytes.nn.Linear4bit):
    """A linear layer in four bits; products are in `compute_dtype`."""

    compute_dtype: torch.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of an input (..., inputs)."""
        out = bitsandbytes.matmul_4bit(x.to(self.compute_dtype), self.weight, quant_state=self.weight.quant_state)
        return with_bias(out, self.bias).to(x.dtype)


class Linear8bitLt(bitsandbytes.nn.Linear8bitLt):
    """A linear layer in eight bits, with a scale per row; products are in `compute_dtype`, and inputs are not rounded.

    LLM.int8() rounds inputs to eight bits too, where numbers that differ in their last bit may become different
    ones, and treats a column apart where any token of the batch is large in it.
    """

    compute_dtype: torch.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) of an input (..., inputs)."""
        out = Unpacked.apply(x.to(self.compute_dtype), self.weight.data, scales_of(self))
        return with_bias(out, self.bias).to(x.dtype)


class Unpacked(torch.autograd.Function):
    """The product of rows (..., inputs) with a weight of int8 (outputs, inputs) times its scales (outputs,) / 127.

    The weight is unpacked for the product alone, in both passes, and never kept.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs)."""
        ctx.save_for_backward(packed, scales)
        return nn.functional.linear(x, unpacked(packed, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of the rows."""
        packed, scales = ctx.saved_tensors
        return grads[0] @ unpacked(packed, scales, grads[0].dtype), None, None


def unpacked(packed: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight in `dtype`, rounded once."""
    return packed.to(dtype, copy=True).mul_(scales.unsqueeze(1) / 127)


def scales_of(layer: bitsandbytes.nn.Linear8bitLt) -> torch.Tensor:
    """Return the scales of a layer's rows; bitsandbytes moves them from the weight to the layer's state."""
    return layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB


def with_bias(out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the output with the bias, which may be of another precision."""
    return out if bias is None else out + bias.to(out.dtype)


OURS = {kind.__base__: kind for kind in (Linear4bit, Linear8bitLt)}
# What they are on the meta device, where there are no values to unpack.
SHAPES = {kind: type(kind.__name__, (kind,), {"forward": nn.Linear.forward}) for kind in (Linear4bit, Linear8bitLt)}
BITS = {Linear4bit: 4, Linear8bitLt: 8}


def packed_in(model: nn.Module) -> list[tuple[Any, Any]]:
    """Return bitsandbytes' layers in a model, each with its class here."""
    return [(layer, ours) for layer in model.modules() for kind, ours in OURS.items() if isinstance(layer, kind)]


def settle(model: nn.Module, dtype: torch.dtype) -> None:
    """Make bitsandbytes' layers in a loaded model these ones, whose products are in `dtype`."""
    for layer, ours in packed_in(model):
        layer.__class__ = ours
        layer.compute_dtype = dtype


def without_values(model: nn.Module) -> None:
    """Make bitsandbytes' layers in a model on the meta device such that methods and texts meet what they will."""
    for layer, ours in packed_in(model):
        layer.__class__ = SHAPES[ours]
        whole = nn.Parameter(torch.empty(layer.out_features, layer.in_features, device="meta"), requires_grad=False)
        vars(whole).update(vars(layer.weight), bits=BITS[ours], module=None)
        layer.weight = whole

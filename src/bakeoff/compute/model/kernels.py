"""Faster implementations of parts of a base, with the same results. They are installed when the base is loaded."""

from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from bakeoff.compute.model.precision import native_precision

# MKL's fp32 products with GPT-2's 50,257 columns take up to twice as long as the same in parts (design/LOG.md).
PART_COLUMNS = 2048


def fuse(model: PreTrainedModel, device: torch.device) -> None:
    """Replace parts of the model by faster ones that compute the same; weights, their names and ties stay."""
    fuse_activations(model)
    head = model.get_output_embeddings()
    if device.type == "cpu" and type(head) is nn.Linear and head.out_features > PART_COLUMNS:
        model.set_output_embeddings(WideLinear.of(head))
    if device.type == "cuda":
        split_groups(model, device)


def fuse_activations(model: nn.Module) -> None:
    """Replace GPT-2's tanh approximation of GELU, written out in eight passes over memory, by torch's one kernel."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def skip_casts(adapted: nn.Module) -> None:
    """Let LoRA's layers take inputs as they are: PEFT casts them to fp32, and autocast each back to the same bits.

    Not before dropout, which would be computed in bf16, nor in DoRA, whose scale would be.
    """
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer) and not layer.lora_variant:
            layer.cast_input_dtype_enabled = any(type(d) is not nn.Identity for d in layer.lora_dropout.values())


def split_groups(model: PreTrainedModel, device: torch.device) -> None:
    """Let models whose heads share keys and values attend without the kernel that holds all scores, if this is one.

    They keep the name of transformers' `sdpa`: some architectures ask for it to make their masks. GPUs that do not
    multiply bf16 have no flash attention either, in no precision.
    """
    if any(getattr(module, "num_key_value_groups", 1) > 1 for module in model.modules()):
        flash = native_precision(device) == "bf16"
        AttentionInterface.register("sdpa", attend_in_fp32 if flash else attend_apart)


def attend_in_fp32(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return what transformers' `sdpa` does; in fp32 by `attend_apart`.

    Under autocast torch computes in less, though queries may be in fp32, as where all weights train.
    """
    in_fp32 = query.dtype == torch.float32 and not torch.is_autocast_enabled(query.device.type)
    attend = attend_apart if in_fp32 else sdpa_attention_forward
    return attend(module, query, key, value, attention_mask, **options)


def attend_apart(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return what transformers' `sdpa` does: (batch, tokens, heads, width) of a query (batch, heads, tokens, width).

    Without a mask that leaves heads that share keys and values to torch, which on CUDA has for them only flash
    attention, not for fp32, and the kernel that holds all scores: 137 GB for one text of 32,768 tokens and 32 heads.
    Here keys and values are repeated, or for one token the heads of a group become its tokens.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    other = any(options.get(name) is not None for name in ("position_bias", "cache"))
    if groups == 1 or attention_mask is not None or other:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    alone = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    if query.shape[2] > 1:
        return sdpa_attention_forward(alone, query, repeat_kv(key, groups), repeat_kv(value, groups), None, **options)
    options["is_causal"] = False
    out, _ = sdpa_attention_forward(alone, query.unflatten(1, (-1, groups)).flatten(2, 3), key, value, None, **options)
    return out.transpose(1, 2).flatten(1, 2).unsqueeze(1), None


class WideLinear(nn.Linear):
    """A linear map onto a vocabulary, computed PART_COLUMNS of its outputs at a time if that is faster."""

    @classmethod
    def of(cls, plain: nn.Linear) -> "WideLinear":
        """Return the same map with the same weight."""
        wide = cls(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        wide.weight, wide.bias = plain.weight, plain.bias
        return wide.train(plain.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Return (..., outputs) of an input (..., inputs)."""
        if input.dtype != torch.float32 or self.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)  # bf16 products were not measured to gain
        rows: Any = InParts.apply(input.flatten(0, -2), self.weight)
        if self.bias is not None:
            rows = rows + self.bias
        return rows.unflatten(0, input.shape[:-1])


class InParts(torch.autograd.Function):
    """The product of rows (rows, inputs) with a weight (outputs, inputs), in parts of its outputs, both ways."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return (rows, outputs)."""
        ctx.save_for_backward(rows, weight)
        out = rows.new_empty(len(rows), len(weight))
        for columns, part in zip(out.split(PART_COLUMNS, 1), weight.split(PART_COLUMNS), strict=True):
            columns.copy_(rows @ part.t())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the gradients of rows and weight, each if it is needed."""
        rows, weight = ctx.saved_tensors
        of_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(weight), PART_COLUMNS):
            part = slice(start, start + PART_COLUMNS)
            grad = grads[0][:, part].contiguous()
            if of_rows is not None:
                of_rows.addmm_(grad, weight[part])
            if of_weight is not None:
                torch.mm(grad.t(), rows, out=of_weight[part])
        return of_rows, of_weight

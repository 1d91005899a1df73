"""Keeps the norms of DoRA's matrices: PEFT computes them at every call, though no weight of a served model changes."""

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.utils.other import transpose
from torch import nn


class FrozenDora(DoraLinearLayer):
    """A DoRA whose weights do not change; a merge, which names no adapter, computes its norms as before."""

    norms: torch.Tensor | None = None

    def get_lora_weight(self, lora_A: Any, lora_B: Any, adapter_name: str | None = None) -> torch.Tensor:  # noqa: N803
        """Return the update (outputs, inputs); it is empty once the norms are known, which alone need it."""
        if self.norms is not None and adapter_name is not None:
            return lora_B.weight.new_empty(0)
        if lora_B.bias is not None:
            return super().get_lora_weight(lora_A, lora_B, adapter_name=adapter_name)
        if self.fan_in_fan_out:  # as the base's weight lies in memory
            return (lora_A.weight.T @ lora_B.weight.T).T
        return lora_B.weight @ lora_A.weight  # PEFT multiplies by an identity as wide as the input

    def get_weight_norm(
        self, weight: torch.Tensor, lora_weight: torch.Tensor, scaling: float, adapter_name: str | None = None
    ) -> torch.Tensor:
        """Return the norms (outputs,)."""
        if adapter_name is None:
            return super().get_weight_norm(weight, lora_weight, scaling)
        if self.norms is None:
            self.norms = norms_of(transpose(weight, self.fan_in_fan_out), lora_weight, scaling)
        return self.norms


def norms_of(weight: torch.Tensor, update: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the norm of each row of a weight (outputs, inputs) with an update added, (outputs,).

    `linalg.norm` takes eight times as long as this where a weight is stored transposed, as GPT-2's are.
    """
    whole = torch.add(weight, update, alpha=scaling)
    return whole.float().square_().sum(1).sqrt_().to(whole.dtype)


def keep_norms(adapted: nn.Module) -> None:
    """Let each DoRA of a frozen model compute its norms once."""
    for layer in adapted.modules():
        if type(layer) is DoraLinearLayer:
            layer.__class__ = FrozenDora

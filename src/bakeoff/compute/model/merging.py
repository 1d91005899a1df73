"""Adds an adapter's trained weights to the base's matrices: one product where there were several."""

from collections import Counter
from contextlib import suppress
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from bakeoff.methods.method import quiet_peft


def merge(adapted: nn.Module, lent: bool = False) -> bool:
    """Merge in place what PEFT has put on matrices, if losses and outputs stay equal except for rounding in fp32.

    Nothing is merged, and False returned, if the matrices are of less than fp32, where the sum would be rounded, or
    packed; if another part of the model shares one, as a tied head does; or if PEFT cannot merge the adapter. Of a base
    that is `lent`, copies of the matrices are changed.
    """
    tuner = getattr(adapted, "base_model", None)
    if not isinstance(tuner, BaseTuner):
        return False
    layers: list[Any] = [module for module in tuner.modules() if isinstance(module, BaseTunerLayer)]
    users = Counter(id(p) for module in tuner.modules() for p in module._parameters.values() if p is not None)
    changed = [p for layer in layers for p in layer.get_base_layer().parameters(recurse=False)]
    if any(p.dtype != torch.float32 or users[id(p)] > 1 for p in changed):
        return False
    if lent:
        for p in changed:
            p.data = p.data.clone()
    with quiet_peft(), suppress(ValueError, NotImplementedError):  # PEFT says so before it changes anything
        adapted.merge_adapter()  # type: ignore[operator]
    return any(layer.merged for layer in layers)

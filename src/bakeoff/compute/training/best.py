"""The best weights of a training so far: copies, beside the trained ones or in the host's memory."""

from collections.abc import Mapping

import torch
from torch import nn

from bakeoff.compute.model.device import CPU
from bakeoff.compute.model.team import local

# Of best weights that an accelerator holds; a copy to the host at each better validation costs little.
BEST_BYTES = 2**30


def place_of_best(weights: Mapping[str, nn.Parameter], device: torch.device) -> torch.device:
    """Return where the best weights are kept: beside the trained ones, or in the host's memory if they are large."""
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    return device if size <= BEST_BYTES else CPU


@torch.no_grad()
def copies(
    weights: Mapping[str, nn.Parameter], device: torch.device, before: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return copies of the weights on a device, in the tensors of the copies `before`, if there are any.

    Of a weight that is shared out, this process's part.
    """
    place = place_of_best(weights, device)
    pinned = place != device and device.type == "cuda"  # from there and to there the GPU copies by itself
    if not before:
        before = {n: torch.empty_like(local(w), device=place, pin_memory=pinned) for n, w in weights.items()}
    for name, weight in weights.items():
        before[name].copy_(local(weight))
    return before

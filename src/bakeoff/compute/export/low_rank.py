"""Turns what an adapter does to weights into a plain LoRA of a given rank, by singular values.

The change of a weight is taken from the merged model, so one way holds for every method that can be merged. PEFT's own
conversion asks each layer for its update, which leaves out DoRA's magnitudes (design/LOG.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bakeoff.errors import SetupError

ROUNDING = 1e-6  # relative to a weight's largest number: smaller changes come from the rounding of a merge


@dataclass
class Factors:
    """Each changed layer's factors by name: A (rank, inputs) and B (outputs, rank).

    `kept` is the share of all changes' squared size that the rank keeps, from 0 to 1.
    """

    rank: int
    of: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    kept: float = 1.0


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a model's weights by name, before an adapter is merged into them; tied ones once."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@torch.no_grad()
def factors_of(before: dict[str, torch.Tensor], model: PreTrainedModel, rank: int, method: str) -> Factors:
    """Return the changes of linear layers' weights as factors of a rank, or of a layer's full rank if that is lower.

    Raises SetupError if anything else has changed, or nothing has.
    """
    found, whole, kept = Factors(0), 0.0, 0.0
    for name, change in changes(before, model, method):
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        most = min(rank, len(s))
        root = s[:most].sqrt()
        found.of[name] = (root[:, None] * v[:most]).contiguous(), (u[:, :most] * root).contiguous()
        found.rank = max(found.rank, most)
        whole, kept = whole + float((s**2).sum()), kept + float((s[:most] ** 2).sum())
    if not found.of:
        raise SetupError(f"--to lora: {method} has changed no weight of the base. Try: --to peft")
    found.of = {name: (padded(a, found.rank, 0), padded(b, found.rank, 1)) for name, (a, b) in found.of.items()}
    found.kept = kept / whole
    return found


def changes(before: dict[str, torch.Tensor], model: PreTrainedModel, method: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each changed linear layer's name with its weight's change (outputs, inputs)."""
    layers = dict(model.named_modules())
    for name, weight in model.named_parameters():
        old = before.get(name)
        limit = ROUNDING * float(weight.abs().max())
        if old is not None and float((weight - old).abs().max()) <= limit:
            continue
        layer = layers[name.rpartition(".")[0]]
        if old is None or not name.endswith(".weight") or not isinstance(layer, nn.Linear | Conv1D):
            raise SetupError(f"--to lora: {method} has changed {name}, which a LoRA cannot change. Try: --to merged")
        change = (weight - old).float()
        yield name.removesuffix(".weight"), change.T if isinstance(layer, Conv1D) else change


def padded(factor: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """Return a factor with zeros up to the rank: a LoRA has one rank for all layers."""
    missing = list(factor.shape)
    missing[axis] = rank - factor.shape[axis]
    return torch.cat([factor, factor.new_zeros(missing)], axis).contiguous()

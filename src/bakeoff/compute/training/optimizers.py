"""The optimizer of a training: AdamW, or Muon for matrices with AdamW for the rest."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from bakeoff.compute.model.base import inner, trainable
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.methods import Method

# What each optimizer keeps of a weight: numbers of the weight's shape, and single numbers.
KEPT = {torch.optim.AdamW: (("exp_avg", "exp_avg_sq"), ("step",)), torch.optim.Muon: (("momentum_buffer",), ())}


class Together:
    """Several optimizers that are called as one; each weight belongs to one of them."""

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.defaults = parts[0].defaults

    @property
    def state(self) -> "Together":
        """What is kept of each weight, by `state[weight]`."""
        return self

    def __getitem__(self, weight: nn.Parameter) -> dict[str, Any]:
        return self.of(weight).state[weight]

    def of(self, weight: nn.Parameter) -> torch.optim.Optimizer:
        """Return the optimizer that a weight belongs to."""
        return next(o for o in self.parts for g in o.param_groups for p in g["params"] if p is weight)

    def step(self) -> None:
        """Let each optimizer change its weights."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()


def matrices(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """Return by name the trained weights that Muon is for: matrices, but those of embeddings and of the head.

    Virtual tokens are embeddings, too, and a matrix with one row, as IA3 has, is a vector.
    """
    head = inner(adapted).get_output_embeddings()
    tables = [*(m for m in adapted.modules() if isinstance(m, nn.Embedding)), *([head] if head is not None else [])]
    looked_up = {id(p) for table in tables for p in table.parameters()}
    return {n: p for n, p in trainable(adapted).items() if p.ndim == 2 and min(p.shape) > 1 and id(p) not in looked_up}


def check_optimizer(method: Method, adapted: nn.Module) -> None:
    """Raise SetupError if an entry's optimizer has nothing to train in the adapted model."""
    if method.optimizer == "muon" and not matrices(adapted):
        raise SetupError(
            f"{method.name}: optimizer: muon is for matrices, and this method trains none (embeddings and the head do "
            "not count). Try: optimizer: adamw"
        )


def optimizer_of(method: Method, protocol: ProtocolConfig, adapted: nn.Module) -> Any:
    """Return the optimizer of a method's entry for its trained weights, in groups with their factor of the rate.

    Muon's steps have AdamW's size (match_rms_adamw), so that one range of learning rates serves both.
    """
    check_optimizer(method, adapted)
    weights = trainable(adapted)
    orthogonal = matrices(adapted) if method.optimizer == "muon" else {}
    rest = {name: weight for name, weight in weights.items() if name not in orthogonal}
    how: dict[str, Any] = {"lr": method.learning_rate, "weight_decay": protocol.weight_decay}
    parts: list[torch.optim.Optimizer] = []
    if orthogonal:
        parts.append(torch.optim.Muon(groups_of(method, orthogonal), adjust_lr_fn="match_rms_adamw", **how))
    if rest:
        parts.append(torch.optim.AdamW(groups_of(method, rest), fused=True, **how))
    return Together(parts) if method.optimizer == "muon" else parts[0]


def groups_of(method: Method, weights: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Return weights in groups of one factor of the learning rate each."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in weights.items():  # what is shared out and what is not cannot be changed by one kernel
        groups.setdefault((method.lr_scale(name), isinstance(weight, DTensor)), []).append(weight)
    return [{"params": members, "lr_scale": scale} for (scale, _), members in groups.items()]


def kept_of(optimizer: Any, weight: nn.Parameter) -> dict[str, torch.Tensor]:
    """Return tensors like those that an optimizer keeps of a weight once it has had a gradient."""
    own = optimizer.of(weight) if isinstance(optimizer, Together) else optimizer
    full, single = KEPT[type(own)]
    return dict.fromkeys(full, weight) | {key: torch.tensor(0.0) for key in single}

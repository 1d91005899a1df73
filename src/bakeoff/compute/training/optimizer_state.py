"""What optimizers keep beside the weights: how much, what of it a checkpoint has, and how it is put back."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

# What each optimizer keeps of a weight, by its class: tensors of the weight's shape, and single numbers.
KEPT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "AdamW": (("exp_avg", "exp_avg_sq"), ("step",)),
    "Muon": (("momentum_buffer",), ()),
    "AdamWScheduleFree": (("z", "exp_avg_sq"), ()),
    "AdamW8bit": (("state1", "state2"), ("step",)),
}
EIGHT_BIT_FROM, BLOCK = 4096, 256  # bitsandbytes: smaller tensors stay in fp32; so many numbers share a scale
COUNTERS = ("k", "weight_sum", "lr_max")  # schedule-free, for each group of weights: steps, and its average's weights


class Together:
    """Several optimizers that are called as one; each weight belongs to one of them."""

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.defaults = parts[0].defaults

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


def of(optimizer: Any, weight: nn.Parameter) -> Any:
    """Return the optimizer that changes a weight."""
    return optimizer.of(weight) if isinstance(optimizer, Together) else optimizer


def kept_like(kind: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return tensors like those that an optimizer of this class keeps of a weight once it has had a gradient."""
    full, single = KEPT[kind]
    if kind == "AdamW8bit" and weight.numel() >= EIGHT_BIT_FROM:
        scales = torch.empty(math.ceil(weight.numel() / BLOCK), device="meta")
        found = dict.fromkeys(full, torch.empty_like(weight, dtype=torch.uint8, device="meta"))
        found |= {"absmax1": scales, "absmax2": scales}
    else:
        found = dict.fromkeys(full, weight)
    return found | {key: torch.tensor(0.0) for key in single}


def kept_bytes(kind: str, weight: torch.Tensor) -> int:
    """Return the bytes that an optimizer of this class keeps of a weight."""
    return sum(like.numel() * like.element_size() for like in kept_like(kind, weight).values())


def kept_of(optimizer: Any, weight: nn.Parameter) -> dict[str, torch.Tensor]:
    """Return tensors like those that an optimizer keeps of a weight once it has had a gradient."""
    return kept_like(type(of(optimizer, weight)).__name__, weight)


def saved_state(optimizer: Any, weight: nn.Parameter) -> dict[str, torch.Tensor]:
    """Return what a checkpoint has of what an optimizer keeps of a weight; nothing before its first gradient."""
    there = of(optimizer, weight).state[weight]
    return {key: torch.as_tensor(there[key], dtype=None if key != "step" else torch.float32)
            for key in kept_of(optimizer, weight) if key in there}  # fmt: skip


def restore_state(optimizer: Any, weight: nn.Parameter, key: str, tensor: torch.Tensor) -> None:
    """Put back one tensor of `saved_state`."""
    own = of(optimizer, weight)
    if type(own).__name__ != "AdamW8bit":
        own.state[weight][key] = tensor.to(weight.device)
        return
    if "qmap1" not in own.state[weight] and weight.numel() >= EIGHT_BIT_FROM:  # its tables are the same for all weights
        for name, table in (("qmap1", "dynamic"), ("qmap2", "udynamic")):
            own.name2qmap[table] = own.name2qmap[table].to(weight.device)
            own.state[weight][name] = own.name2qmap[table]
    own.state[weight][key] = int(tensor) if key == "step" else tensor.to(weight.device)


def counters(optimizer: Any) -> list[list[float]]:
    """Return what an optimizer counts for each group of weights, as plain numbers: schedule-free alone does."""
    return [[group[key] for key in COUNTERS] for group in optimizer.param_groups if "weight_sum" in group]


def check_counters(optimizer: Any, stored: Any) -> None:
    """Raise ValueError unless these are `counters` of such an optimizer."""
    shapes = [len(COUNTERS)] * len(counters(optimizer))
    if not isinstance(stored, list) or [len(row) for row in stored if isinstance(row, list)] != shapes:
        raise ValueError("its optimizer is another")
    if not all(isinstance(number, int | float) and math.isfinite(number) for row in stored for number in row):
        raise ValueError("its optimizer has counted what is no number")


def restore_counters(optimizer: Any, stored: Sequence[Sequence[float]]) -> None:
    """Put back `counters`."""
    for group, row in zip(optimizer.param_groups, stored, strict=False):
        group.update(zip(COUNTERS, row, strict=True))


@contextmanager
def averaged(optimizer: Any, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Give the weights the values that a training would end with here: in schedule-free, the average of its steps.

    After that they have the very bits from which they are trained further. The copies take the place of gradients,
    which do not exist during a validation.
    """
    if not counters(optimizer):
        yield
        return
    trained_at = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(trained_at[name])

"""The optimizer of a training: AdamW, also in eight bits, Muon for matrices beside AdamW, or schedule-free."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from bakeoff.compute.model.base import inner, trainable
from bakeoff.compute.training.optimizer_state import Together, kept_bytes
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.methods import Method

# The class that changes all weights, but those that Muon is for.
CLASSES = {"adamw": "AdamW", "muon": "AdamW", "schedule_free": "AdamWScheduleFree", "adamw_8bit": "AdamW8bit"}
NEEDS = {"schedule_free": ("schedulefree", "schedule-free"), "adamw_8bit": ("bitsandbytes", "quantize")}  # its extra


def matrices(adapted: nn.Module) -> dict[str, nn.Parameter]:
    """Return by name the trained weights that Muon is for: matrices, but those of embeddings and of the head.

    Virtual tokens are embeddings, too, and a matrix with one row, as IA3 has, is a vector.
    """
    head = inner(adapted).get_output_embeddings()
    tables = [*(m for m in adapted.modules() if isinstance(m, nn.Embedding)), *([head] if head is not None else [])]
    looked_up = {id(p) for table in tables for p in table.parameters()}
    return {n: p for n, p in trainable(adapted).items() if p.ndim == 2 and min(p.shape) > 1 and id(p) not in looked_up}


def check_optimizer(method: Method, adapted: nn.Module) -> None:
    """Raise SetupError if an entry's optimizer is not installed, or cannot train the adapted model."""
    where = f"{method.name}: optimizer: {method.optimizer}"
    package, extra = NEEDS.get(method.optimizer, ("torch", ""))
    if find_spec(package) is None:
        raise SetupError(f"{where} needs {package}. Try: pip install 'bakeoff[{extra}]', or optimizer: adamw")
    if method.optimizer == "muon" and not matrices(adapted):
        raise SetupError(
            f"{where} is for matrices, and this method trains none (embeddings and the head do not count). Try: "
            "optimizer: adamw"
        )
    if method.optimizer == "adamw_8bit" and any(isinstance(w, DTensor) for w in trainable(adapted).values()):
        raise SetupError(f"{where} cannot change weights that are shared out (machine.shards). Try: optimizer: adamw")
    if method.optimizer == "schedule_free" and type(method).after_step is not Method.after_step:
        raise SetupError(
            f"{where} ends with an average over its steps, and this method changes weights, or reads gradients, after "
            "each of them. Try: optimizer: adamw"
        )


def optimizer_of(method: Method, protocol: ProtocolConfig, adapted: nn.Module) -> Any:
    """Return the optimizer of a method's entry for its trained weights, in groups with their factor of the rate.

    Muon's steps have AdamW's size (match_rms_adamw), so that one range of learning rates serves both. Schedule-free
    (Defazio et al. 2024, arXiv:2405.15682) trains at other values than it is evaluated at, see `averaged`.
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
        parts.append(built(method.optimizer, groups_of(method, rest), how))
    return Together(parts) if method.optimizer == "muon" else parts[0]


def built(name: str, groups: list[dict[str, Any]], how: dict[str, Any]) -> Any:
    """Return the optimizer, ready to train, for groups of weights that Muon is not for."""
    if name == "schedule_free":
        from schedulefree import AdamWScheduleFree

        made = AdamWScheduleFree(groups, **how)
        made.train()
        return made
    if name == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **how)
    return torch.optim.AdamW(groups, fused=True, **how)


def groups_of(method: Method, weights: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Return weights in groups of one factor of the learning rate each."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in weights.items():  # what is shared out and what is not cannot be changed by one kernel
        groups.setdefault((method.lr_scale(name), isinstance(weight, DTensor)), []).append(weight)
    return [{"params": members, "lr_scale": scale} for (scale, _), members in groups.items()]


def optimizer_bytes(method: Method, adapted: nn.Module) -> int:
    """Return the bytes that an entry's optimizer keeps of the trained weights of an adapted model, by shapes alone."""
    orthogonal = matrices(adapted) if method.optimizer == "muon" else {}
    others = CLASSES[method.optimizer]
    return sum(kept_bytes("Muon" if n in orthogonal else others, w) for n, w in trainable(adapted).items())

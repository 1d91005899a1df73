"""Checkpoints: a training that stopped goes on as if it never had, bit for bit, in another process.

One safetensors file holds it all: trained weights, the best ones so far, the optimizer's state, what the method has
gathered, the random generators' states, and counters and clocks as JSON in its header, so that one rename makes it
whole. Batches need nothing stored: they follow from seed and epoch.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bakeoff.training.loop import Progress, Trainer


def save_checkpoint(file: Path, trainer: Trainer, extra: dict[str, Any]) -> None:
    """Write where `trainer` stands, and `extra` (plain data) with it; a crash leaves the old file or the new one.

    A training that has ended leaves its best weights only: nothing goes on from it.
    """
    tensors = {f"best/{name}": tensor for name, tensor in trainer.best.items()}
    if not trainer.at.ended:
        for name, weight in trainer.weights.items():
            tensors[f"weights/{name}"] = weight.detach()
            for key, tensor in trainer.optimizer.state[weight].items():
                tensors[f"optimizer:{key}/{name}"] = tensor
        gathered = trainer.method.state(trainer.adapted)
        tensors |= {f"method/{key}": tensor for key, tensor in gathered.items()}
        tensors["random/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random/cuda"] = torch.cuda.get_rng_state()
    state = {"at": asdict(trainer.at), "seconds": trainer.clocks.seconds, "extra": extra}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata={"state": json.dumps(state)})
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)


def load_checkpoint(file: Path, trainer: Trainer) -> dict[str, Any]:
    """Put a fresh trainer, and the model in it, where the saved one stood; return the `extra` that was saved.

    Tensors are read one at a time, so that going on takes no more memory than having gone on.
    """
    with safe_open(file, "pt") as stored:
        state = json.loads(stored.metadata()["state"])
        gathered = {}
        for name in stored.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            if name.startswith("method/"):
                gathered[name.removeprefix("method/")] = stored.get_tensor(name)
            else:
                restore(trainer, name, stored.get_tensor(name))
    trainer.method.restore(trainer.adapted, gathered)
    trainer.at = Progress(**state["at"])
    trainer.clocks.seconds = state["seconds"]
    return state["extra"]


@torch.no_grad()
def restore(trainer: Trainer, name: str, tensor: torch.Tensor) -> None:
    """Put one stored tensor in its place."""
    part, _, key = name.partition("/")
    if name == "random/cpu":
        torch.set_rng_state(tensor)
    elif name == "random/cuda":
        torch.cuda.set_rng_state(tensor)
    elif part == "best":
        trainer.best[key] = tensor.to(trainer.weights[key].device)
    elif part == "weights":
        trainer.weights[key].copy_(tensor)
    else:
        weight = trainer.weights[key]
        trainer.optimizer.state[weight][part.removeprefix("optimizer:")] = tensor.to(weight.device)

"""Checkpoints: an interrupted training resumes in another process as if it had never stopped.

On a CPU that is so bit for bit, and on a GPU if `protocol.deterministic` is set: else its kernels add in any order.

One safetensors file has everything: trained weights, the best weights so far, the optimizer's state, the method's own
state, the states of the random generators, and, as JSON in its header, counters, the scale of gradients in fp16, clocks
and curve. Its name has its
step and the SHA-256 of its content. So one rename completes it, and any damage is noticed. Batches need not be stored:
they follow from seed and epoch.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from bakeoff.compute.model.device import out_of_memory, random_state, set_random_state
from bakeoff.compute.model.team import local, part_of, whole
from bakeoff.compute.training.best import place_of_best
from bakeoff.compute.training.loop import Progress, Trainer
from bakeoff.compute.training.optimizer_state import (
    check_counters,
    counters,
    kept_of,
    restore_counters,
    restore_state,
    saved_state,
)
from bakeoff.config.machine import SafetyConfig
from bakeoff.interrupts import Stopped
from bakeoff.methods.saved import kind_of, shown
from bakeoff.store.checksums import digest, sync
from bakeoff.store.run_folder import CHECKPOINT

KEPT = 2
FREE_SHARE = 0.25  # of the disk's free space, where no budget is given
LARGE_SECONDS = 1.0  # a checkpoint that takes longer
TIME_SHARE = 0.05  # of the run's time that large ones may take


class CheckpointWriter:
    """Writes a run's checkpoints when they are due: after each validation, and every so many seconds.

    `extra` returns plain data of a trainer to keep with them; `stop_requested` says whether the run was asked to stop;
    `saved_step` is the step that is on the disk already. A writer does not refer to its trainer, which refers to it:
    in a circle the model would outlive its training.
    """

    def __init__(
        self,
        folder: Path,
        safety: SafetyConfig,
        extra: Callable[[Trainer], dict[str, Any]],
        stop_requested: Callable[[], bool],
        saved_step: int | None = None,
    ):
        self.folder, self.extra, self.stop_requested = folder, extra, stop_requested
        self.seconds, self.budget = safety.checkpoint_seconds, budget_of(folder, safety)
        self.saved_at, self.cost, self.saved_step = time.monotonic(), 0.0, saved_step

    def after_step(self, trainer: Trainer, validated: bool) -> None:
        """Save if it is due; if the run was asked to stop, save and raise Stopped.

        After the end of training there is nothing to do: the caller saves its results.
        """
        if trainer.at.ended:
            return
        age, stopping = time.monotonic() - self.saved_at, self.stop_requested()
        rested = self.cost < LARGE_SECONDS or age >= self.cost / TIME_SHARE
        due = stopping or (rested and (validated or age >= self.seconds))
        due, stopping = trainer.base.team.agreed((due, stopping))
        if due:
            self.save(trainer)
        if stopping:
            raise Stopped

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of this step, once. If the disk refuses, the log says so, and the run continues."""
        team, step = trainer.base.team, trainer.at.step
        saved, too_large = team.agreed((step == self.saved_step, KEPT * size_of(trainer) > self.budget))
        if saved:
            return
        start = time.monotonic()
        try:
            if too_large:
                raise OSError(f"two checkpoints of {size_of(trainer):,} bytes are over the {self.budget:,} allowed")
            with trainer.clocks.phase("checkpoint"):
                save_checkpoint(self.folder, trainer, self.extra(trainer))
            self.saved_step = trainer.at.step
        except (OSError, SafetensorError) as error:
            print(f"no checkpoint at step {trainer.at.step}: {error}", file=sys.stderr)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start


def budget_of(folder: Path, safety: SafetyConfig) -> int:
    """Return how many bytes a run's checkpoints may take."""
    if not isinstance(safety.checkpoint_budget, str):
        return int(safety.checkpoint_budget)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return int(FREE_SHARE * shutil.disk_usage(there).free)


def size_of(trainer: Trainer) -> int:
    """Return a checkpoint's size in bytes: the weights, the best ones and two moments of each."""
    return 4 * sum(weight.numel() * weight.element_size() for weight in trainer.weights.values())


def checkpoint_files(folder: Path) -> list[Path]:
    """Return a run's checkpoints, newest first."""
    files = folder.glob("*.safetensors")
    return sorted((file for file in files if re.fullmatch(CHECKPOINT, file.name)), reverse=True)


def save_checkpoint(folder: Path, trainer: Trainer, extra: dict[str, Any]) -> None:
    """Write the state of `trainer` and `extra` (plain data); after a crash the new file is complete or absent.

    The checkpoint before it stays. A finished training leaves only its best weights: it is not resumed. All processes
    of a team must call this; rank 0 writes.
    """
    tensors = tensors_of(trainer)
    if not trainer.base.team.leads:
        return
    state: dict[str, Any] = {"at": asdict(trainer.at), "scaler": trainer.scaler.state_dict(), "extra": extra}
    state |= {"seconds": trainer.clocks.seconds, "counters": counters(trainer.optimizer)}
    folder.mkdir(parents=True, exist_ok=True)
    for old in checkpoint_files(folder):
        # One of a later step was passed over when this training began, and may yet serve whoever wrote it.
        if step_of(old) <= trainer.at.step and old.name != trainer.saved:
            old.unlink()
    temporary = folder / f".{os.getpid()}.tmp"
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata={"state": json.dumps(state)})
        sync(temporary)
        name = f"{trainer.at.step:09d}-{digest(temporary)}.safetensors"
        temporary.replace(folder / name)
        trainer.saved = name
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)


def tensors_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return what a checkpoint has, by name; what a team shares out is put together, in rank 0's host memory."""
    found: dict[str, torch.Tensor] = {}

    def add(name: str, tensor: torch.Tensor, like: torch.Tensor | None = None) -> None:
        full = whole(tensor, like)
        if isinstance(like, DTensor):
            full = full.cpu() if trainer.base.team.leads else full[:0].clone()  # others need not hold it
        found[name] = full

    for name, tensor in trainer.best.items():
        add(f"best/{name}", tensor, trainer.weights[name])
    if trainer.at.ended:
        return found
    for name, weight in trainer.weights.items():
        add(f"weights/{name}", weight, weight)
        for key, tensor in saved_state(trainer.optimizer, weight).items():
            add(f"optimizer:{key}/{name}", tensor, weight if tensor.shape == weight.shape else None)
    found |= {f"method/{key}": tensor for key, tensor in trainer.method.state(trainer.adapted).items()}
    found["random/cpu"] = torch.get_rng_state()
    if trainer.base.device.type != "cpu":
        found[f"random/{trainer.base.device.type}"] = random_state(trainer.base.device)
    return found


def load_newest(
    folder: Path, trainer: Trainer, accepts: Callable[[dict[str, Any]], bool] = lambda extra: True
) -> dict[str, Any] | None:
    """Put a fresh trainer into the state of the newest checkpoint that it can resume from, and return its `extra`.

    A checkpoint is skipped, and the log says so, if it is damaged, belongs to another training (`accepts` gets its
    `extra`), or is from another device or version. Returns None if none is left: the training starts from the
    beginning. Other processes of a team take the one that rank 0 has taken.
    """
    team = trainer.base.team
    extra = newest(folder, trainer, accepts) if team.leads else None
    extra, name = team.agreed((extra, trainer.saved))
    if extra is not None and not team.leads:
        load_checkpoint(folder / name, trainer, accepts)
    return extra


def newest(folder: Path, trainer: Trainer, accepts: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Do what `load_newest` does in one process."""
    for rest in folder.glob(".*.tmp"):
        if re.fullmatch(CHECKPOINT, rest.name):
            rest.unlink()
    for file in checkpoint_files(folder):
        try:
            if file.stem.partition("-")[2] == digest(file):
                return load_checkpoint(file, trainer, accepts)
            file.unlink()
            reason: object = "damaged"
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            reason = error
        print(f"{file.name}: not used ({reason})", file=sys.stderr)
    return None


def load_checkpoint(file: Path, trainer: Trainer, accepts: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Put a fresh trainer, and the model in it, into the saved state; return the `extra` that was saved.

    Raises an error before anything is changed if the checkpoint belongs to another training. Tensors are read one at a
    time, so that resuming takes no more memory than training without a break.
    """
    with safe_open(file, "pt") as stored:
        state = json.loads(stored.metadata()["state"])
        at = Progress(**state["at"])
        same = at.step == step_of(file) and asdict(at) == state["at"]
        if not (same and accepts(state["extra"]) and state["scaler"].keys() == trainer.scaler.state_dict().keys()):
            raise ValueError("of another training or version")
        check_counters(trainer.optimizer, state["counters"])
        names = stored.keys()
        check_tensors(trainer, at.ended, {n: stored.get_slice(n) for n in names if not n.startswith("method/")})
        for name in names:
            if name.startswith("random/"):
                torch.Generator(name.removeprefix("random/")).set_state(stored.get_tensor(name))  # raises if it is none
        gathered = {n.removeprefix("method/"): stored.get_tensor(n) for n in names if n.startswith("method/")}
        trainer.method.restore(trainer.adapted, gathered)
        for name in names:
            if not name.startswith("method/"):
                restore(trainer, name, stored.get_tensor(name))
    restore_counters(trainer.optimizer, state["counters"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.at, trainer.saved = at, file.name
    trainer.clocks.seconds = state["seconds"]
    return state["extra"]


def check_tensors(trainer: Trainer, ended: bool, stored: dict[str, Any]) -> None:
    """Raise ValueError unless a checkpoint's tensors, given as slices, are those that this trainer would write."""
    wanted: dict[str, torch.Tensor] = {f"best/{name}": weight for name, weight in trainer.weights.items()}
    if not ended:
        wanted["random/cpu"] = torch.get_rng_state()
        if trainer.base.device.type != "cpu":
            wanted[f"random/{trainer.base.device.type}"] = random_state(trainer.base.device)
        for name, weight in trainer.weights.items():
            wanted[f"weights/{name}"] = weight
            kept = {f"optimizer:{key}/{name}": like for key, like in kept_of(trainer.optimizer, weight).items()}
            if kept.keys() & stored.keys():  # none is there of a weight that has had no gradient yet
                wanted |= kept
    if differ := wanted.keys() ^ stored.keys():
        raise ValueError(f"its tensors differ: {min(differ)}, {len(differ)} in all")
    for name, tensor in wanted.items():
        there = (stored[name].get_dtype(), tuple(stored[name].get_shape()))
        if there != kind_of(tensor):
            raise ValueError(f"{name} is {shown(there)}, not {shown(kind_of(tensor))}")


def step_of(file: Path) -> int:
    """Return the step that a checkpoint was written after."""
    return int(file.name.partition("-")[0])


@torch.no_grad()
def restore(trainer: Trainer, name: str, tensor: torch.Tensor) -> None:
    """Copy one stored tensor to its place."""
    part, _, key = name.partition("/")
    if name == "random/cpu":
        torch.set_rng_state(tensor)
    elif part == "random":
        set_random_state(trainer.base.device, tensor)
    elif part == "best":
        own = local(part_of(tensor, trainer.weights[key]))
        trainer.best[key] = own.to(place_of_best(trainer.weights, trainer.base.device))
    elif part == "weights":
        local(trainer.weights[key]).copy_(local(part_of(tensor, trainer.weights[key])))
    else:
        weight = trainer.weights[key]
        own = part_of(tensor, weight) if tensor.shape == weight.shape else tensor
        restore_state(trainer.optimizer, weight, part.removeprefix("optimizer:"), own)

"""The processes that share one run: what they tell each other, so that all take the same steps as one process would.

Each has a rank, and reads its share of the rows. Rank 0 is the process of the run; it alone writes and reports.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")
BUCKET = 2**24  # gradients that are added up at once
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}


class Team:
    """The processes of one run; a run in one process is a team of one, which asks nobody.

    All call the same methods in the same order. If it is `sharded`, each has a part of each block's weights (see
    `sharding`); else each has all of them. `number` is that of its device on its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, sharded: bool = False, number: int = 0):
        self.rank, self.size, self.sharded, self.number = rank, size, sharded, number
        self.control: Any = None  # the group for plain data and for what processors have
        self.turns: Any = None  # of the model that is sharded now

    def join(self, store: Any, device: torch.device) -> None:
        """Meet the other processes at a store; each has a device of its own, or a share of the processor."""
        distributed.init_process_group(BACKENDS[device.type], store=store, rank=self.rank, world_size=self.size)
        self.control = distributed.new_group(backend="gloo")

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return the places of this process's rows among so many."""
        return range(self.rank, count, self.size)

    def gathered(self, mine: Sequence[T], count: int) -> list[T]:
        """Return what all have found for `count` rows, in the rows' order, given what this one found for its share."""
        if self.size == 1:
            return [*mine]
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, [*mine], group=self.control)
        return [everyone[i % self.size][i // self.size] for i in range(count)]

    def agreed(self, value: T) -> T:
        """Return what rank 0 says."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def total(self, value: float) -> float:
        """Return the sum of all values."""
        return self.reduced(value, distributed.ReduceOp.SUM)

    def most(self, value: float) -> float:
        """Return the largest of all values."""
        return self.reduced(value, distributed.ReduceOp.MAX)

    def least(self, value: float) -> float:
        """Return the smallest of all values."""
        return self.reduced(value, distributed.ReduceOp.MIN)

    def reduced(self, value: float, how: Any) -> float:
        """Return one number made of all values."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(box, how, group=self.control)
        return box.item()

    def wait(self) -> None:
        """Wait for all others."""
        self.total(0)

    @torch.no_grad()
    def start_alike(self, weights: Iterable[nn.Parameter]) -> None:
        """Give all processes rank 0's values of trained weights of which each has its own copy."""
        for weight in weights if self.size > 1 else ():
            if not isinstance(weight, DTensor):
                distributed.broadcast(weight.data, src=0)

    @torch.no_grad()
    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of weights of which each process has a copy; where none has one, there is none."""
        if self.size == 1:
            return
        bucket: list[nn.Parameter] = []
        for weight in weights:
            if not isinstance(weight, DTensor):  # a sharded weight's are added up in the backward pass
                bucket.append(weight)
            if sum(w.numel() for w in bucket) >= BUCKET:
                self.add_bucket(bucket)
                bucket = []
        if bucket:
            self.add_bucket(bucket)

    def add_bucket(self, weights: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of some weights in one exchange, with how many processes have one of each."""
        there = torch.tensor([float(w.grad is not None) for w in weights], device=weights[0].device)
        grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        flat = torch.cat([there, *(grad.flatten() for grad in grads)])
        distributed.all_reduce(flat)
        parts = flat[len(weights) :].split([w.numel() for w in weights])
        for weight, count, grad, part in zip(weights, flat[: len(weights)].tolist(), grads, parts, strict=True):
            if count:
                weight.grad = grad.copy_(part.view_as(grad))

    @torch.no_grad()
    def clip(self, weights: Iterable[nn.Parameter], most: float) -> None:
        """Scale all gradients so that their norm is at most so much, as torch's `clip_grad_norm_` does."""
        weights = [weight for weight in weights if weight.grad is not None]
        if not any(isinstance(weight, DTensor) for weight in weights):
            nn.utils.clip_grad_norm_(weights, most)
            return
        own = [local(w.grad) for w in weights if isinstance(w, DTensor) and w.grad is not None]
        copied = [w.grad for w in weights if not isinstance(w, DTensor) and w.grad is not None]
        shards = nn.utils.get_total_norm(own).square().reshape(1)
        distributed.all_reduce(shards)
        norm = (shards[0] + nn.utils.get_total_norm(copied).square().to(shards.device)).sqrt()
        torch._foreach_mul_([*own, *copied], torch.clamp(most / (norm + 1e-6), max=1.0))

    def draw_apart(self, seed: int, step: int) -> None:
        """Let each process draw other random numbers, for dropout, from now on; rank 0's are those of one process."""
        if self.rank:
            torch.manual_seed(hash((seed, step, self.rank)))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Let each process call a sharded model as often as its own rows need; at the end wait for all others."""
        if self.turns is None:
            yield
            return
        with self.turns.apart():
            yield

    def give_up(self) -> None:
        """Forget a group of processes in which one has failed; that of an accelerator ends with its process."""
        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()

    def leave(self) -> None:
        """End the exchange with the other processes."""
        distributed.destroy_process_group()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process has of a tensor, in the same memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor as `like` lies: sharded in the same way, or as it is, on its device."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def whole(tensor: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return a tensor of which each process may have a part; `like` says how it lies, if it is itself only a part.

    All processes must ask for it.
    """
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
        there = tensor.to(like.to_local().device)
        tensor = DTensor.from_local(
            there, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


@contextmanager
def whole_weights(adapted: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let an adapted model have its trained weights whole, in the host's memory, while they are saved.

    All processes take part; only rank 0's model is to be read.
    """
    places: list[tuple[nn.Module, str, nn.Parameter]] = []
    for name, weight in weights.items():
        if isinstance(weight, DTensor):
            full = nn.Parameter(whole(weight).cpu())
            parent, _, own = name.rpartition(".")
            module = adapted.get_submodule(parent)
            places.append((module, own, weight))
            module._parameters[own] = full
    try:
        yield
    finally:
        for module, own, weight in places:
            module._parameters[own] = weight


ALONE = Team()

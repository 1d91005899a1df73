"""Batches: which examples form a step, and the tensors of one.

The batches of an epoch depend on the lengths, the seed and the epoch only, so every entry gets the same ones in the
same order, and any step can be rebuilt without the ones before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy
import torch
from numpy.typing import NDArray

from bakeoff.data.tokens import Tokens

POOL_BATCHES = 32

Indices = NDArray[numpy.int64]
Lengths = Sequence[int] | NDArray[numpy.integer]


class Batches(Sequence[list[int]]):
    """Batches as lists of example indices, cut from one `order` (examples,) and taken in another (`turns`)."""

    def __init__(self, order: Indices, batch_size: int, turns: Indices | None = None):
        self.order, self.batch_size = order, batch_size
        self.turns = numpy.arange(-(-len(order) // batch_size)) if turns is None else turns

    def __len__(self) -> int:
        return len(self.turns)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> "Batches": ...

    def __getitem__(self, index: int | slice) -> "list[int] | Batches":
        if isinstance(index, slice):
            return Batches(self.order, self.batch_size, self.turns[index])
        start = int(self.turns[index]) * self.batch_size
        return self.order[start : start + self.batch_size].tolist()


def epoch_batches(lengths: Lengths, batch_size: int, seed: int, epoch: int) -> Batches:
    """Return the epoch's batches as example indices: each example once, similar lengths together, batches shuffled.

    A shuffled pool of POOL_BATCHES batches at a time is sorted by length and cut, which leaves little padding and
    keeps the composition of a batch random beyond its length.
    """
    generator = numpy.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    lengths, pool = numpy.asarray(lengths), batch_size * POOL_BATCHES
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        order[start : start + pool] = part[numpy.argsort(lengths[part], kind="stable")]
    return Batches(order, batch_size, generator.permutation(-(-len(order) // batch_size)))


def evaluation_batches(lengths: Lengths, batch_size: int, tokens: int | None = None) -> Sequence[list[int]]:
    """Return all examples in batches of similar length, longest first (so that memory runs out at once or never).

    Each has `batch_size` examples, or as many more as have together up to so many `tokens` with their padding.
    """
    order = numpy.argsort(-numpy.asarray(lengths), kind="stable")
    if tokens is None:
        return Batches(order, batch_size)
    batches, start = [], 0
    while start < len(order):
        end = start + max(batch_size, tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start:end].tolist())
        start = end
    return batches


def parts(lengths: Sequence[int], most_rows: int, most_tokens: int | None, ways: int = 1) -> list[slice]:
    """Return consecutive slices of a batch's rows: at most `most_rows` and `most_tokens` padded positions in each.

    A row that is longer than `most_tokens` has a part of its own. If the rows of a part are shared out, `ways` says
    among how many, and `most_tokens` is of each share.
    """
    slices, start = [], 0
    for end in range(1, len(lengths) + 1):
        longest = max(lengths[start : end + 1])
        share = -(-(end + 1 - start) // ways)
        full = end - start == most_rows or (most_tokens is not None and share * longest > most_tokens)
        if end == len(lengths) or full:
            slices.append(slice(start, end))
            start = end
    return slices


@dataclass(frozen=True)
class Batch:
    """Right-padded ids and where their targets are.

    `ids` (batch, seq): prompt and target of a causal model, only the prompts of an encoder-decoder, whose decoder gets
    `decoder_ids` (batch, longest target). `rows` and `columns` (targets,) say where the logits are that predict each
    target, before any virtual tokens; `targets` (targets,) are the ids to predict, `counts` is the number of targets of
    each row, `lengths` the number of its `ids` without padding.
    """

    ids: torch.Tensor
    decoder_ids: torch.Tensor | None
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    counts: list[int]
    lengths: list[int]


def collate(
    rows: Sequence[Tokens], pad: int, decoder_start: int | None = None, device: torch.device | str = "cpu"
) -> Batch:
    """Return the rows as one batch on `device`: of an encoder-decoder if `decoder_start` is given, else causal."""
    prompts, targets = [row.prompt for row in rows], [row.target for row in rows]
    if decoder_start is None:
        # the last target token predicts nothing
        ids = padded([prompt + target[:-1] for prompt, target in zip(prompts, targets, strict=True)], pad)
        decoder_ids, first = None, [len(prompt) - 1 for prompt in prompts]
    else:
        ids = padded(prompts, pad)
        decoder_ids, first = padded([[decoder_start, *t[:-1]] for t in targets], pad), [0] * len(rows)
    places = [row.trained for row in rows]
    counts = torch.tensor([len(own) for own in places])
    where = torch.arange(len(rows)).repeat_interleave(counts)
    columns = torch.tensor([at + place for at, own in zip(first, places, strict=True) for place in own])
    chosen = torch.tensor([t[place] for t, own in zip(targets, places, strict=True) for place in own])
    there = moved([ids, where, columns, chosen, *([] if decoder_ids is None else [decoder_ids])], torch.device(device))
    lengths = [len(p) + (len(t) - 1 if decoder_start is None else 0) for p, t in zip(prompts, targets, strict=True)]
    return Batch(
        there[0], None if decoder_ids is None else there[4], there[1], there[2], there[3], counts.tolist(), lengths
    )


def moved(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return whole numbers on a device; to CUDA they go together, in one copy for which nobody waits."""
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    return parted(flat(tensors).pin_memory().to(device, non_blocking=True), tensors)


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the values of tensors one after the other."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def parted(values: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return what `flat` has put together as tensors of the shapes that it had."""
    rows = values.split([tensor.numel() for tensor in like])
    return [row.view(tensor.shape) for row, tensor in zip(rows, like, strict=True)]


def padded(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Return ids as (batch, longest row), the rest of each row `pad`."""
    ids = torch.full((len(rows), max(len(row) for row in rows)), pad, dtype=torch.long)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = torch.tensor(row)
    return ids

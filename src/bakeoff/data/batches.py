"""Batches: which examples form a step, and the tensors of one.

The batches of an epoch depend on the lengths, the seed and the epoch only, so every entry gets the same ones in the
same order, and any step can be rebuilt without the ones before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

from bakeoff.data.tokens import Tokens

POOL_BATCHES = 32


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the epoch's batches as example indices: each example once, similar lengths together, batches shuffled.

    A shuffled pool of POOL_BATCHES batches at a time is sorted by length and cut, which leaves little padding and
    keeps the composition of a batch random beyond its length.
    """
    generator = numpy.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    batches = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool].tolist(), key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def evaluation_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return all examples in batches of similar length, longest first (so that memory runs out at once or never)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class Batch:
    """Right-padded ids and where their targets are.

    `ids` (batch, seq). `rows` and `columns` (targets,) say where the logits that predict each target stand, before
    any virtual tokens; `targets` (targets,) are the ids to predict, `counts` how many each row has.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    counts: list[int]
    tokens: int


def collate(rows: Sequence[Tokens], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Return the rows as one batch on `device`.

    Right padding needs no attention mask: a causal model never looks ahead, and nothing is read at pad positions.
    """
    width = max(len(row) for row in rows) - 1  # the last target token predicts nothing
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    for i, row in enumerate(rows):
        text = (row.prompt + row.target)[:-1]
        ids[i, : len(text)] = torch.tensor(text)
        places += [(i, len(row.prompt) - 1 + k) for k in range(len(row.target))]
        targets += row.target
    where = torch.tensor(places)
    return Batch(
        ids.to(device),
        where[:, 0].to(device),
        where[:, 1].to(device),
        torch.tensor(targets).to(device),
        [len(row.target) for row in rows],
        sum(len(row) - 1 for row in rows),
    )

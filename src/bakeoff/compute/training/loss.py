"""The loss: cross-entropy of target tokens only, the same function for training and evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from bakeoff.compute.model.base import Base, inner
from bakeoff.compute.model.device import out_of_memory
from bakeoff.compute.model.forward import UNCHANGED, autocast, positions, prefix, row_losses, text_inputs, total_bytes
from bakeoff.compute.model.kv_cache import RoomyCache
from bakeoff.compute.model.shared_prefix import read_beginning
from bakeoff.compute.training.batches import Batch, collate, epoch_batches, evaluation_batches, parts
from bakeoff.data.token_file import lengths_of
from bakeoff.data.tokens import Tokens
from bakeoff.methods import Method

# Makes the context in which a batch of these members is evaluated; a trunk cache's replaces the frozen blocks.
Serve = Callable[[Sequence[int]], AbstractContextManager[None]]
Losses = list[tuple[float, int]]  # of each example: summed loss in nats, target tokens

# Positions x width on a CPU: of GPT-2's shape, batches of 8 x 270 tokens took a quarter less time in parts of 2 rows
# than whole, and half the memory (design/LOG.md).
PART_ELEMENTS = 1 << 19
# Positions that an accelerator reads at once, where each may have so many bytes of its memory: few calls keep it busy.
READ_POSITIONS, POSITION_BYTES = 2**15, 2**21

# Rows of a model that go through it at once, where memory ran out with more: no validation has to find that again.
_MOST: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def whole(members: Sequence[int]) -> AbstractContextManager[None]:
    """Change nothing: the whole model is computed."""
    return UNCHANGED


def batch_of(base: Base, rows: Sequence[Tokens]) -> Batch:
    """Return the rows as the base reads them, on its device."""
    return collate(rows, base.pad, base.decoder_start, base.device)


def part_tokens(base: Base, above_trunk: bool = False) -> int | None:
    """Return how many positions go through the model at once; None if only memory limits them.

    On a CPU a block's activations should stay in the cache; on a GPU products should be as large as possible. If
    everything that trains is above a trunk, adding up the parts' gradients costs more, so parts are twice as large.
    """
    if base.device.type != "cpu":
        return None
    return (1 + above_trunk) * PART_ELEMENTS // base.model.config.get_text_config(decoder=True).hidden_size


def read_at_once(base: Base) -> int | None:
    """Return how many positions are read together for a test on an accelerator; None on a processor.

    That follows from its whole memory, so that it is the same whatever else is on it. Not for validations: their peak
    is part of a training's, which would then say nothing of its steps.
    """
    if base.device.type in ("cpu", "meta"):
        return None
    return min(READ_POSITIONS, total_bytes(base.device) // POSITION_BYTES)


def model_inputs(adapted: nn.Module, batch: Batch, past: RoomyCache | None = None) -> dict[str, Any]:
    """Return the arguments of the model's call for a right-padded batch, which continues `past` if it is given.

    A causal model never looks ahead and needs no mask; an encoder does wherever a row is padded.
    """
    inputs: dict[str, Any] = dict(text_inputs(adapted, batch.ids))
    if batch.decoder_ids is not None:
        inputs |= {"decoder_input_ids": batch.decoder_ids}
        virtual = positions(inputs) - batch.ids.shape[1]
        inputs["attention_mask"] = encoder_mask(batch.lengths, virtual, batch.ids)
    if past is not None:
        inputs["past_key_values"] = RoomyCache(inner(adapted).config, 0, past)
    elif (trained := prefix(adapted, len(batch.ids))) is not None:
        inputs["past_key_values"] = trained
    return inputs


def encoder_mask(lengths: Sequence[int], virtual: int, ids: torch.Tensor) -> torch.Tensor | None:
    """Return ones over each row's virtual tokens and text, (batch, virtual + seq); None where no row is padded."""
    if min(lengths) == ids.shape[1]:
        return None
    columns = torch.arange(virtual + ids.shape[1], device=ids.device)
    return (columns < virtual + torch.tensor(lengths, device=ids.device)[:, None]).long()


def target_losses(
    base: Base,
    adapted: nn.Module,
    batch: Batch,
    context: AbstractContextManager[None] = UNCHANGED,
    past: RoomyCache | None = None,
) -> torch.Tensor:
    """Return the cross-entropy in nats of every target token, (targets,), fp32.

    `context` is about the model's call; `past` is what comes before each of the batch's rows and was read already.
    """
    with autocast(base):
        inputs = model_inputs(adapted, batch, past)
        if batch.decoder_ids is None:
            width = positions(inputs)
            columns = batch.columns + width - batch.ids.shape[1]
        else:
            width, columns = batch.decoder_ids.shape[1], batch.columns
        return row_losses(base, adapted, inputs, batch.rows * width + columns, batch.targets, context)


def start(base: Base, adapted: nn.Module, method: Method, rows: Sequence[Tokens], batch_size: int) -> None:
    """Let a method that starts from data see training examples, in batches cut to one length, without padding."""

    def forward(model: nn.Module, members: Sequence[int]) -> torch.Tensor:
        batch = [rows[i] for i in members]
        prompt, target = min(len(row.prompt) for row in batch), min(len(row.target) for row in batch)
        cut = [Tokens(row.prompt[-prompt:], row.target[:target]) for row in batch]
        return target_losses(base, model, batch_of(base, cut))

    with evaluating(adapted):
        method.start(adapted, epoch_batches(lengths_of(rows).totals, batch_size, seed=0, epoch=0), forward)


@torch.no_grad()
def evaluate_loss(
    base: Base, adapted: nn.Module, rows: Sequence[Tokens], batch_size: int, serve: Serve = whole,
    positions: int | None = None,
) -> Losses:  # fmt: skip
    """Return (summed loss in nats, target tokens) of each example, in the order of `rows`, with dropout off.

    The split's loss is the sum of the losses over the sum of the tokens (protocol rule 7), never a mean of means.
    Batches have `batch_size` rows, or more if these have together at most so many `positions` with their padding. Where
    memory runs out, batches go through the model in parts of half as many rows, also when it is evaluated again. What
    all prompts begin with is read once, unless a trunk is served. Each process of a team reads its share, and all
    return all losses.
    """
    asked, rows = len(rows), [rows[i] for i in base.team.share(len(rows))] if base.team.size > 1 else rows
    results: Losses = [(0.0, 0)] * len(rows)
    totals, most = lengths_of(rows).totals, _MOST.get(adapted, len(rows))

    def read(members: Sequence[int]) -> None:
        for part in parts(totals[members].tolist(), most, part_tokens(base)):
            part_rows, past = [rows[i] for i in members[part]], None
            if beginning:
                part_rows, past = [beginning.without(row) for row in part_rows], beginning.past
            batch = batch_of(base, part_rows)
            losses = target_losses(base, adapted, batch, serve(members[part]), past)
            for i, found in zip(members[part], by_example(losses, batch.counts), strict=True):
                results[i] = found

    with evaluating(adapted), base.team.apart():
        beginning = read_beginning(base, adapted, (row.prompt for row in rows)) if serve is whole else None
        totals = totals - (beginning.length if beginning else 0)
        for members in evaluation_batches(totals, batch_size, positions):
            while True:
                try:
                    read(members)
                    break
                except RuntimeError as error:
                    if not out_of_memory(error) or min(most, len(members)) == 1 or base.team.sharded:
                        raise
                most = _MOST[adapted] = (min(most, len(members)) + 1) // 2
    return base.team.gathered(results, asked)


def by_example(losses: torch.Tensor, counts: Sequence[int]) -> Losses:
    """Return the summed losses of examples with so many targets each, given all targets' (targets,)."""
    there = losses.detach().cpu().double()  # at once; MPS has no such numbers
    return [(float(values.sum()), len(values)) for values in there.split(list(counts))]


@contextmanager
def evaluating(adapted: nn.Module) -> Iterator[None]:
    """Switch dropout off, and afterwards put every module back into its mode."""
    modes = {module: module.training for module in adapted.modules()}
    adapted.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def mean_loss(results: Losses) -> float:
    """Return nats per target token over a whole split."""
    return sum(loss for loss, _ in results) / sum(tokens for _, tokens in results)

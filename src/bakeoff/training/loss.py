"""The loss: cross-entropy of target tokens only, the same function for training and evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from bakeoff.data.batches import Batch, collate, evaluation_batches
from bakeoff.data.tokens import Tokens
from bakeoff.model import Base, embed, inner, only_rows

# Makes the context in which a batch of these members is evaluated; a trunk cache's replaces the frozen blocks.
Serve = Callable[[Sequence[int]], AbstractContextManager[None]]
UNCHANGED: AbstractContextManager[None] = nullcontext()


def whole(members: Sequence[int]) -> AbstractContextManager[None]:
    """Change nothing: the whole model is computed."""
    return UNCHANGED


def autocast(base: Base) -> torch.autocast:
    """Return the context that every forward pass runs in; it does nothing in fp32."""
    return torch.autocast(base.device.type, torch.bfloat16, enabled=base.precision == "bf16")


def target_losses(
    base: Base, adapted: nn.Module, batch: Batch, context: AbstractContextManager[None] = UNCHANGED
) -> torch.Tensor:
    """Return the cross-entropy in nats of every target token, (targets,), fp32; `context` is about the model's call."""
    model = inner(adapted)
    with autocast(base):
        inputs = embed(adapted, batch.ids)
        virtual = inputs.shape[1] - batch.ids.shape[1]
        rows = batch.rows * inputs.shape[1] + batch.columns + virtual
        with only_rows(model, rows), context:
            logits = model(inputs_embeds=inputs, use_cache=False).logits
    return nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")


@torch.no_grad()
def evaluate_loss(
    base: Base, adapted: nn.Module, rows: Sequence[Tokens], batch_size: int, serve: Serve = whole
) -> list[tuple[float, int]]:
    """Return (summed loss in nats, target tokens) of each example, in the order of `rows`, with dropout off.

    The split's loss is the sum of the losses over the sum of the tokens (protocol rule 7), never a mean of means.
    """
    results: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    with evaluating(adapted):
        for members in evaluation_batches([len(r) for r in rows], batch_size):
            batch = collate([rows[i] for i in members], base.pad, base.device)
            losses = target_losses(base, adapted, batch, serve(members)).split(batch.counts)
            for i, values in zip(members, losses, strict=True):
                results[i] = (float(values.double().sum()), len(values))
    return results


@contextmanager
def evaluating(adapted: nn.Module) -> Iterator[None]:
    """Within, dropout is off; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in adapted.modules()}
    adapted.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def mean_loss(results: Sequence[tuple[float, int]]) -> float:
    """Return nats per target token over a whole split."""
    return sum(loss for loss, _ in results) / sum(tokens for _, tokens in results)

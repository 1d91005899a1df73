"""Checks that a base computes here what its own plain forward pass computes, on two short rows.

Losses and decoding call a model in ways that are right for tested architectures, but another model may silently ignore
an argument. The reference is the plain forward pass: one whole row alone, without a cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Cache

from bakeoff.compute.decoding.batch import decoding
from bakeoff.compute.decoding.greedy import one_length, reads_targets
from bakeoff.compute.model.base import Base
from bakeoff.compute.model.device import forked_random
from bakeoff.compute.model.forward import autocast, prefix
from bakeoff.compute.model.head import is_head_alone
from bakeoff.compute.model.shared_prefix import WORTH, Beginning, read_beginning
from bakeoff.compute.training.loss import batch_of, target_losses
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line

# Relative, of the losses of a row's targets; without memory they are far off.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
EXACT = {"fp32": 1e-5, "bf16": 5e-2, "fp16": 1e-2}  # of two passes of one shape, which round alike
PROMPTS = (WORTH + 2, WORTH + 7)  # tokens, of which the first WORTH are the same in both
TARGETS = 5  # tokens
SLOW = "outputs are decoded without the cache, which takes longer: with it {} differ from a plain forward pass"


@torch.no_grad()
def conforming(base: Base) -> tuple[Base, str | None]:
    """Return the base as it is to be called, with a note if that is slower than usual.

    Raises SetupError if the base cannot be used: it sees what comes after a token, or its losses or outputs are not
    those of its plain forward pass.
    """
    name, rows = type(base.model).__name__, rows_for(base)
    with forked_random(base.device), one_line(f"model: {name}: cannot be called as a language model for text"):
        plain = [plain_losses(base, row) for row in rows]
        check_causal(base, rows[0], plain[0])
        base = replace(base, head_alone=is_head_alone(base.model))
        batch = batch_of(base, rows)
        if far(base, target_losses(base, base.model, batch), torch.cat(plain)):
            raise SetupError(
                f"model: {name}: the loss of a batch differs from the loss of its rows one by one, so it cannot be used"
            )
    try:
        with forked_random(base.device), one_line(f"model: {name}: cannot be decoded with its cache"):
            wrong = differs(base, base.model, rows, plain)
    except SetupError:
        wrong = "outputs"
    if wrong is None:
        return base, None
    slow = replace(base, cached=False)
    with forked_random(base.device), one_line(f"model: {name}: cannot be decoded"):
        still = differs(slow, base.model, rows, plain)
    if still:
        raise SetupError(f"model: {name}: {still} differ from its plain forward pass, so it cannot be used")
    return slow, SLOW.format(wrong)


def rows_for(base: Base) -> list[Tokens]:
    """Return two rows of unequal lengths that begin alike, of tokens all over the vocabulary."""
    special = set(base.tokenizer.all_special_ids)
    most = min(len(base.tokenizer), base.model.get_input_embeddings().weight.shape[0])
    known = [i for i in range(min(most, 100_000)) if i not in special]
    ids = [known[(7 + 7919 * i) % len(known)] for i in range(sum(PROMPTS) + 2 * TARGETS)]
    first, rows = ids[:WORTH], []
    for length in PROMPTS:
        rest, ids = ids[-length:], ids[:-length]
        rows.append(Tokens([*first, *rest[: length - WORTH]], rest[-TARGETS:]))
    return rows


def plain_losses(base: Base, row: Tokens, past: Cache | None = None) -> torch.Tensor:
    """Return the losses (targets,) of a row from the model's own forward pass of it alone; `past` comes before it."""
    if base.decoder_start is None:
        ids = torch.tensor([[*row.prompt, *row.target[:-1]]], device=base.device)
        inputs: dict[str, Any] = {"input_ids": ids}
    else:
        ids = torch.tensor([row.prompt], device=base.device)
        start = torch.tensor([[base.decoder_start, *row.target[:-1]]], device=base.device)
        inputs = {"input_ids": ids, "decoder_input_ids": start}
    if past is not None:
        inputs["past_key_values"] = past
    with autocast(base):
        logits = base.model(**inputs, attention_mask=torch.ones_like(ids), use_cache=False).logits
    wanted = torch.tensor(row.target, device=base.device)
    return cross_entropy(logits[0, -len(row.target) :].float(), wanted, reduction="none")


def check_causal(base: Base, row: Tokens, losses: torch.Tensor) -> None:
    """Raise SetupError if a token's loss depends on the tokens after it: a bidirectional model would just copy."""
    other = replace(row, target=[*row.target[:2], row.prompt[0], row.prompt[1], *row.target[4:]])
    if far(base, plain_losses(base, other)[:2], losses[:2], EXACT):
        raise SetupError(
            f"model: {type(base.model).__name__}: sees the tokens that follow, so it would only learn to copy them. "
            f"Allowed: a causal language model or an encoder-decoder"
        )


def far(base: Base, losses: torch.Tensor, plain: torch.Tensor, tolerance: dict[str, float] = TOLERANCE) -> bool:
    """Return whether losses differ by more than rounding; NaN differs from everything."""
    return not bool((losses - plain).norm() <= tolerance[base.precision] * plain.norm())


@torch.no_grad()
def virtual_tokens_differ(base: Base, adapted: nn.Module, words: list[int]) -> str | None:
    """Return what is wrong with losses or outputs behind a method's virtual tokens, which start as `words`.

    Virtual tokens should be read like the words, which the model looks up itself. An encoder-decoder's trained prefix
    does not equal any text: there, decoding is compared with a pass that keeps nothing.
    """
    rows, prefixed = rows_for(base), prefix(adapted, 1) is not None and base.decoder_start is not None
    before = [] if prefixed else words
    plain = [
        plain_losses(base, replace(row, prompt=[*before, *row.prompt]), prefix(adapted, 1) if prefixed else None)
        for row in rows
    ]
    alone = [target_losses(base, adapted, batch_of(base, [row])) for row in rows]
    if far(base, torch.cat(alone), torch.cat(plain), EXACT):  # a small encoder's text matters little
        return "losses"
    return differs(base, adapted, rows, plain)


def differs(base: Base, adapted: nn.Module, rows: list[Tokens], plain: list[torch.Tensor]) -> str | None:
    """Return what differs from the plain pass if prompts are read and targets are written token by token."""
    beginning = read_beginning(base, adapted, [row.prompt for row in rows])
    if beginning:
        known = batch_of(base, [beginning.without(row) for row in rows])
        if far(base, target_losses(base, adapted, known, past=beginning.past), torch.cat(plain)):
            return "losses"
    slices = [slice(i, i + 1) for i in range(len(rows))] if one_length(base) else [slice(None)]
    wrong = (differ_together(base, adapted, rows[part], plain[part], beginning) for part in slices)
    return next(filter(None, wrong), None)


def differ_together(
    base: Base, adapted: nn.Module, rows: list[Tokens], plain: list[torch.Tensor], beginning: Beginning | None
) -> str | None:
    """Return what differs if rows are decoded together."""
    prompts, targets = [row.prompt for row in rows], [row.target for row in rows]
    together = reads_targets(base, base.precision)
    with autocast(base), last_logits(base, len(rows)) as logits:
        batch = decoding(base, adapted, prompts, TARGETS, beginning, targets if together else None)
        batch.next_logits()  # what is chosen first comes from what the losses come from
        sums = torch.tensor([loss for loss, _ in batch.losses])
        if together and far(base, sums, torch.stack([p.sum() for p in plain]).cpu()):
            return "losses"
        for step in range(1, TARGETS):
            batch.append(torch.tensor([target[step - 1] for target in targets], device=base.device))
            batch.next_logits()
            wanted = torch.tensor([target[step] for target in targets], device=base.device)
            losses = cross_entropy(logits[-1].float(), wanted, reduction="none")
            if far(base, losses, torch.stack([p[step] for p in plain])):
                return "outputs"
    return None


@contextmanager
def last_logits(base: Base, rows: int) -> Iterator[list[torch.Tensor]]:
    """Collect the logits (rows, vocabulary) of the last positions from each call of the model; yield the list."""
    seen: list[torch.Tensor] = []

    def see(_module: object, _inputs: object, outputs: Any) -> None:
        logits = outputs.logits  # (rows, tokens, vocabulary), or (rows, vocabulary) where only the last are asked for
        seen.append(logits[:, -1] if logits.ndim == 3 else logits[-rows:])

    handle = base.model.register_forward_hook(see)
    try:
        yield seen
    finally:
        handle.remove()

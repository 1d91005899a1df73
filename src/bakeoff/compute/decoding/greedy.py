"""Greedy decoding: the same for every method, and independent of a model's own generation config."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bakeoff.compute.decoding.batch import decoding
from bakeoff.compute.model.base import DTYPES, Base
from bakeoff.compute.model.device import out_of_memory, room, wait
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.model.kv_cache import RoomyCache, values_per_token
from bakeoff.compute.model.shared_prefix import Beginning, read_beginning, turns_by_length
from bakeoff.compute.training.loss import Losses

LEAVE_SHARE = 0.75  # ended rows leave the batch, which copies the cache, once no more than this share remains
CACHE_BYTES = 2**30  # of keys and values, where the config leaves open how many rows are decoded side by side ...
MOST_ROWS = 64  # ... and no more than this: beyond it little is gained (design/LOG.md)
# On an accelerator. A step of few rows is as long as one of hundreds; what is left is for prompts that are read.
CACHE_SHARE, MOST_ROWS_ON_DEVICE = 0.5, 256


@dataclass
class Reading:
    """How many tokens were read for losses and decoding at once, and how long it took."""

    tokens: int = 0
    seconds: float = 0.0


OnProgress = Callable[[int, Reading], None]


def silent(done: int, reading: Reading) -> None:
    """Do nothing: nobody listens."""


def generate(
    base: Base,
    adapted: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int | None = None,
    on_progress: OnProgress = silent,
) -> list[list[int]]:
    """Return the greedy continuation of each prompt, in the given order, without the token that ends it.

    Prompts are sorted by length; their common start is read once. Finished rows leave the batch. An output does not
    depend on the others in its batch, so a batch is halved if memory runs out; without a `batch_size` it is as large as
    CACHE_BYTES allow. `on_progress` is called with the number of finished prompts. Each process of a team decodes its
    share, and all return all outputs.
    """
    return read_and_generate(base, adapted, prompts, None, max_new_tokens, batch_size, on_progress)[0]


def reads_targets(base: Base, precision: str) -> bool:
    """Return whether decoding in this precision can read prompts and targets together, as the loss does.

    It takes the loss's own precision, and a causal model's keys and values must be the same whatever follows.
    """
    if base.precision != precision or not base.cached:
        return False
    config = base.model.config
    return base.decoder_start is not None or (RoomyCache(config, 0).joinable and not turns_by_length(config))


@torch.no_grad()
def read_and_generate(
    base: Base,
    adapted: nn.Module,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]] | None,
    max_new_tokens: int,
    batch_size: int | None = None,
    on_progress: OnProgress = silent,
) -> tuple[list[list[int]], Losses]:
    """Do what `generate` does; if there are `targets`, also return each one's loss, as `evaluate_loss` does.

    A prompt is then read once for both; its target comes after it, and is removed from the cache again. Only if
    `reads_targets` allows it. `on_progress` is called with the number of finished prompts, and what was read of them
    and their targets.
    """
    adapted.eval()
    team, asked = base.team, len(prompts)
    if team.size > 1:
        own = team.share(asked)
        prompts, targets = [prompts[i] for i in own], [targets[i] for i in own] if targets else None

    def tell(done: int, reading: Reading) -> None:
        on_progress(min(asked, done * team.size), reading)

    with team.apart():
        outputs, losses = _in_batches(base, adapted, prompts, targets, max_new_tokens, batch_size, tell)
    return team.gathered(outputs, asked), team.gathered(losses, asked)


def _in_batches(
    base: Base,
    adapted: nn.Module,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]] | None,
    max_new_tokens: int,
    batch_size: int | None,
    on_progress: OnProgress,
) -> tuple[list[list[int]], Losses]:
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    outputs: list[list[int]] = [[] for _ in prompts]
    losses: Losses = [(0.0, 0)] * len(prompts)
    reading = Reading()
    beginning = read_beginning(base, adapted, prompts)
    alike = one_length(base)
    done, most = 0, batch_size or max(MOST_ROWS, MOST_ROWS_ON_DEVICE)
    while done < len(order):
        longest = len(prompts[order[done]])
        members = order[done : done + (most if batch_size else min(most, rows_at_once(base, longest + max_new_tokens)))]
        if alike:
            members = [i for i in members if len(prompts[i]) == longest]
        batch = [prompts[i] for i in members], [targets[i] for i in members] if targets else None
        try:
            written, batch_losses = _decode(base, adapted, *batch, max_new_tokens, beginning, reading)
        except RuntimeError as error:
            if not out_of_memory(error) or len(members) == 1 or base.team.sharded:
                raise
            most = (len(members) + 1) // 2
            continue
        for place, i in enumerate(members):
            outputs[i] = written[place]
            if targets:
                losses[i] = batch_losses[place]
        done += len(members)
        on_progress(done, reading)
    return outputs, losses


def one_length(base: Base) -> bool:
    """Return whether only prompts of one length are decoded together: states of recurrent blocks have no padding.

    If the cache cannot be used, each text is read from its beginning again, and may be padded.
    """
    return base.cached and base.decoder_start is None and not RoomyCache(base.model.config, 0).joinable


def rows_at_once(base: Base, tokens: int) -> int:
    """Return how many rows of so many tokens have their keys and values in the room there is, at most MOST_ROWS.

    The room is CACHE_BYTES on a CPU, and a share of an accelerator's free memory, which also takes more rows. Runs that
    have the same device at the same time divide it.
    """
    row_bytes = values_per_token(base.model.config) * tokens * DTYPES[base.precision].itemsize
    if base.device.type == "cpu":
        return max(1, min(MOST_ROWS, CACHE_BYTES // row_bytes))
    cache_bytes = int(CACHE_SHARE * room(base.device)) // (base.beside + 1)
    return max(1, min(MOST_ROWS_ON_DEVICE, cache_bytes // row_bytes))


def _decode(
    base: Base,
    adapted: nn.Module,
    prompts: list[Sequence[int]],
    targets: list[Sequence[int]] | None,
    max_new_tokens: int,
    beginning: Beginning | None,
    reading: Reading,
) -> tuple[list[list[int]], Losses]:
    ends = base.ends
    rows = list(range(len(prompts)))  # which prompt each row of the shrinking batch is
    outputs: list[list[int]] = [[] for _ in rows]
    ended: set[int] = set()
    with autocast(base):
        started = time.perf_counter()
        batch = decoding(base, adapted, prompts, max_new_tokens, beginning, targets)
        chosen = batch.next_logits().argmax(-1)
        if targets:
            wait(base.device)
            reading.seconds += time.perf_counter() - started
            reading.tokens += sum(map(len, prompts)) + sum(map(len, targets))
        for left in reversed(range(max_new_tokens)):
            for row, token in zip(rows, chosen.tolist(), strict=True):
                if token in ends:
                    ended.add(row)
                elif row not in ended:
                    outputs[row].append(token)
            alive = [place for place, row in enumerate(rows) if row not in ended]
            if not alive or not left:
                break
            if len(alive) <= LEAVE_SHARE * len(rows):
                keep = torch.tensor(alive, device=base.device)
                rows, chosen = [rows[place] for place in alive], chosen[keep]
                batch.keep(keep)
            batch.append(chosen)
            chosen = batch.next_logits().argmax(-1)
    return outputs, batch.losses

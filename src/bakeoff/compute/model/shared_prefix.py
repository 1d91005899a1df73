"""Reads the common start of all prompts (few-shot examples, a template's instruction) once, not once per row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PreTrainedConfig

from bakeoff.compute.model.base import Base, inner
from bakeoff.compute.model.forward import autocast, prompt_config
from bakeoff.compute.model.head import only_rows
from bakeoff.compute.model.kv_cache import RoomyCache
from bakeoff.data.tokens import Tokens

WORTH = 16  # tokens: from there on it paid, for loss and for reading prompts (design/LOG.md)


@dataclass
class Beginning:
    """The first `length` tokens of every prompt, and their keys and values in a cache of one row."""

    length: int
    past: RoomyCache

    def without(self, row: Tokens) -> Tokens:
        """Return the row with the rest of its prompt."""
        return replace(row, prompt=row.prompt[self.length :])


@torch.no_grad()
def read_beginning(base: Base, adapted: nn.Module, prompts: Iterable[Sequence[int]]) -> Beginning | None:
    """Return the common start of all prompts; None if it is too short, or the model cannot continue from it.

    Virtual tokens are read together with the text that follows, as in training: methods that have them share nothing.
    """
    model = inner(adapted)
    if not base.cached or base.decoder_start is not None:
        return None
    if prompt_config(adapted) is not None or turns_by_length(model.config):
        return None
    first = common(prompts)
    past = RoomyCache(model.config, 0)
    if len(first) < WORTH or not past.joinable:
        return None
    ids = torch.tensor([list(first)], device=base.device)
    with autocast(base), only_rows(model, ids[0, :1] * 0):
        model(input_ids=ids, past_key_values=past, use_cache=True)
    return Beginning(len(first), past) if past.filled else None


def turns_by_length(config: PreTrainedConfig) -> bool:
    """Return whether rotary positions depend on a text's length: then a beginning alone has other positions."""
    return any(kind in str(getattr(config, "rope_parameters", "")) for kind in ("dynamic", "longrope"))


def common(prompts: Iterable[Sequence[int]]) -> Sequence[int]:
    """Return the ids with which all prompts begin, without any prompt's last id; empty if fewer than WORTH."""
    rest = iter(prompts)
    first = next(rest, [])
    length = None
    for prompt in rest:
        length = min(len(first) - 1 if length is None else length, len(prompt) - 1)
        if prompt[:length] != first[:length]:
            length = next((i for i in range(length) if prompt[i] != first[i]), 0)
        if length < WORTH:
            return []
    return first[:length] if length else []

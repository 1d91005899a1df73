"""Keys and values of decoded tokens in buffers that are made once: transformers' own cache is copied at every token."""

from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One block's keys and values, (batch, heads, tokens, width), as views into buffers with room for `room` more."""

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens and return all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.buffers:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [
                s.new_empty((*s.shape[:2], end + self.room, s.shape[-1])) for s in (key_states, value_states)
            ]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the rows at `indices`."""
        end = self.get_seq_length()
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)


def roomy_cache(config: PreTrainedConfig | None, room: int) -> DynamicCache:
    """Return an empty cache; layers of another kind (sliding windows, states) stay transformers' own.

    Without a config layers are made as they come: an encoder-decoder's have one kind, and no common name for how many.
    """
    cache = DynamicCache(config=config)
    if config is None:
        cache.layer_class_to_replicate = partial(RoomyLayer, room)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache

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


class RoomyCache(DynamicCache):
    """A cache of such blocks; layers of another kind (sliding windows, states) stay transformers' own.

    Without a config layers are made as they come: an encoder-decoder's have one kind, and no common name for how many.
    A causal model's `prefix` (keys and values of one row, and each row's count of pad tokens) takes the place of what
    the first call computes right before the text. Before the padding it would be farther away for a sliding window.
    """

    def __init__(
        self,
        config: PreTrainedConfig | None,
        room: int,
        prefix: tuple[DynamicCache, torch.Tensor] | None = None,
    ):
        super().__init__(config=config)
        if config is None:
            self.layer_class_to_replicate = partial(RoomyLayer, room)
        self.layers: list[Any] = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in self.layers]
        self.prefix = prefix

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens to a block's and return all."""
        if self.prefix is not None and self.get_seq_length(layer_idx) == 0:
            past, pads = self.prefix
            own = past.layers[layer_idx]
            kept, end = own.keys.shape[2], pads[:, None] + past.get_seq_length()
            columns = end - kept + torch.arange(kept, device=end.device)  # (batch, tokens)
            rows = torch.arange(len(columns), device=end.device)[:, None]
            for states, trained in ((key_states, own.keys), (value_states, own.values)):
                states[rows, :, columns] = trained.transpose(1, 2).to(states.dtype)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

"""Keys and values of decoded tokens in preallocated buffers: transformers' own cache is copied at every token."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer


class RoomyLayer(DynamicLayer):
    """One block's keys and values, (batch, heads, tokens, width), as views into buffers with room for `room` more.

    `past` are a row's trained or read keys and values, (1, heads, tokens, width), with which all rows begin. A cache
    that forgets tokens out of reach of any window may have only the last of its `past_length` tokens.
    """

    def __init__(self, room: int, past: tuple[torch.Tensor, torch.Tensor] | None = None, past_length: int = 0):
        super().__init__()
        self.room, self.past, self.past_length = room, past, past_length
        self.buffers: list[torch.Tensor] = []

    def get_seq_length(self) -> int:
        """Return the number of tokens, including those with which all rows begin."""
        return super().get_seq_length() if self.buffers else self.past_length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens and return all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.buffers:
            self.allocate((key_states, value_states), key_states.shape[0], end)
            for buffer, states in zip(self.buffers, self.past or (), strict=False):
                buffer[:, :, start - states.shape[2] : start] = states
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.see(end)
        return self.keys, self.values

    def allocate(self, like: Sequence[torch.Tensor], rows: int, tokens: int) -> None:
        """Make buffers of zeros, of the kind of `like`, for so many rows and tokens and the room."""
        self.lazy_initialization(*like)
        self.buffers = [s.new_zeros((rows, s.shape[1], tokens + self.room, s.shape[3])) for s in like]

    def see(self, tokens: int) -> None:
        """Let keys and values be the first so many tokens of the buffers."""
        self.keys, self.values = (buffer[:, :, :tokens] for buffer in self.buffers)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep only the rows at `beam_idx`; every kind of layer has a method of this name."""
        if self.buffers:
            end = self.get_seq_length()
            self.buffers = [buffer[beam_idx] for buffer in self.buffers]
            self.see(end)


def values_per_token(config: PreTrainedConfig) -> int:
    """Return how many numbers the cache of a model holds for one token of one row, by its config."""
    text = config.get_text_config(decoder=True)
    own = vars(text)  # where blocks differ a config gives none of these by its name, though it has one for most
    heads = getattr(text, "num_attention_heads", 1)
    width = own.get("head_dim") or text.hidden_size // heads
    return 2 * text.num_hidden_layers * (own.get("num_key_value_heads") or heads) * width


class RoomyCache(DynamicCache):
    """A cache of such blocks, each with all tokens: the mask hides what a sliding window must not see.

    Layers of another kind (states of recurrent blocks) stay transformers' own. Without a config, layers are made when
    they are needed: those of an encoder-decoder have one kind, and no common name for their number. `past` is a cache
    of one row, with which all rows begin.
    """

    def __init__(self, config: PreTrainedConfig | None, room: int, past: Cache | None = None):
        super().__init__(config=config)
        length = 0 if past is None else past.get_seq_length()

        def layer(block: int) -> RoomyLayer:
            states = None if past is None else (past.layers[block].keys, past.layers[block].values)
            return RoomyLayer(room, states, length)

        if config is None:
            self.layer_class_to_replicate = lambda: RoomyLayer(room)
        self.layers: list[Any] = [
            layer(block) if type(own) in (DynamicLayer, DynamicSlidingWindowLayer) else own
            for block, own in enumerate(self.layers)
        ]

    @property
    def joinable(self) -> bool:
        """Whether all layers contain tokens, so that rows may be moved and padded. A dummy reads another layer's."""
        return all(isinstance(layer, (RoomyLayer, DummyLayer)) for layer in self.layers)

    @property
    def filled(self) -> bool:
        """Whether the model has used it: some architectures do not use a cache."""
        return all(layer.buffers for layer in self.layers if isinstance(layer, RoomyLayer))

    def take(self, part: "RoomyCache", rows: slice, lengths: Sequence[int], total: int, width: int) -> None:
        """Move a part's rows, whose first `lengths` tokens are real, to `rows` of `total`, their ends to `width`.

        Neighbours of one length are moved together: an accelerator is asked once for each copy.
        """
        moves, start = [], 0
        for length, alike in groupby(lengths):
            end = start + len([*alike])
            moves.append((slice(start, end), slice(rows.start + start, rows.start + end), length))
            start = end
        for own, other in zip(self.layers, part.layers, strict=True):
            if other.keys is None:  # never called by the model
                continue
            if not own.buffers:
                own.allocate((other.keys, other.values), total, width)
                own.see(width)
            for buffer, states in zip(own.buffers, (other.keys, other.values), strict=True):
                for here, there, length in moves:
                    buffer[there, :, width - length : width] = states[here, :, :length]
            other.buffers, other.keys, other.values = [], None, None

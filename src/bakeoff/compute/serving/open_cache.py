"""Keys and values of rows that join and leave: one buffer per block, in which every row ends at the same column."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from bakeoff.compute.model.kv_cache import RoomyCache, RoomyLayer

# Columns to the left, for a longer row, and to the right, for new tokens. Where none are left all rows are copied.
ROOM = 128


class OpenLayer(DynamicLayer):
    """One block's keys and values, (places, heads, columns, width); `columns` says which of them are in use."""

    def __init__(self, columns: "Columns"):
        super().__init__()
        self.columns = columns
        self.buffers: list[torch.Tensor] = []

    def get_seq_length(self) -> int:
        """Return the number of columns in use."""
        return self.columns.width

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the states of each row's new token into the next column and return the columns in use, and this one."""
        own = self.columns
        keys, values = self.buffers
        keys[: own.rows, :, own.end : own.end + 1] = key_states
        values[: own.rows, :, own.end : own.end + 1] = value_states
        used = slice(own.end - own.width, own.end + 1)
        return keys[: own.rows, :, used], values[: own.rows, :, used]

    def reserve(self, like: Sequence[torch.Tensor], places: int, columns: int, end: int) -> None:
        """Move what is in use into buffers for so many places and columns, such that it ends at `end`."""
        own, before = self.columns, self.buffers
        if not before:
            self.lazy_initialization(*like)
        self.buffers = [s.new_zeros((places, s.shape[1], columns, s.shape[3])) for s in like]
        for new, old in zip(self.buffers, before, strict=False):
            new[: own.rows, :, end - own.width : end] = old[: own.rows, :, own.end - own.width : own.end]


class Columns:
    """Which places and columns of all blocks' buffers are in use: the first `rows`, and `width` columns up to `end`."""

    def __init__(self) -> None:
        self.rows = self.width = self.end = 0
        self.places = self.columns = 0  # that there are buffers for


class OpenCache(RoomyCache):
    """A cache of such blocks. A row's tokens end at the last column in use, as those of all others do.

    So a step writes one column, and a row that joins is copied once. Memory is that of the longest row and
    2 x ROOM columns, and grows by a half of the rows at a time; without rows there is none.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config, 0)
        self.columns = Columns()
        self.lengths: list[int] = []  # tokens of each row
        self.layers = [OpenLayer(self.columns) if isinstance(layer, RoomyLayer) else layer for layer in self.layers]

    @property
    def open_layers(self) -> list[OpenLayer]:
        """The blocks that have keys and values of their own."""
        return [layer for layer in self.layers if isinstance(layer, OpenLayer) and layer.buffers]

    @property
    def bytes(self) -> int:
        """The memory that the buffers take."""
        return sum(buffer.nbytes for layer in self.open_layers for buffer in layer.buffers)

    def join(self, part: RoomyCache, place: int, length: int) -> None:
        """Add a row: the one at `place` of a part that was read, whose first `length` tokens are real."""
        own = self.columns
        if own.rows == own.places or length > own.end:
            places = own.places if own.rows < own.places else own.rows + max(4, own.rows // 2)
            self.reserve(part, places, max(own.width, length))
        own.width = max(own.width, length)
        for layer, other in zip(self.layers, part.layers, strict=True):
            if other.keys is not None and isinstance(layer, OpenLayer):
                for buffer, states in zip(layer.buffers, (other.keys, other.values), strict=True):
                    buffer[own.rows, :, own.end - length : own.end] = states[place, :, :length]
        own.rows += 1
        self.lengths.append(length)

    def reserve(self, part: RoomyCache, places: int, width: int) -> None:
        """Make buffers for so many places, and for ROOM columns more than `width` on either side."""
        own, end = self.columns, width + ROOM
        for layer, other in zip(self.layers, part.layers, strict=True):
            if isinstance(layer, OpenLayer):
                like = layer.buffers or ((other.keys, other.values) if other.keys is not None else ())
                if like:
                    layer.reserve(like, places, end + ROOM, end)
        own.places, own.columns, own.end = places, end + ROOM, end

    def make_room(self) -> None:
        """Make sure that there is a column for the next token."""
        if self.columns.end == self.columns.columns:
            self.reserve(self, self.columns.places, self.columns.width)

    def advance(self) -> None:
        """Count the column that a call of the model has filled."""
        self.columns.end += 1
        self.columns.width += 1
        self.lengths = [length + 1 for length in self.lengths]

    def clear(self, place: int) -> None:
        """Remove numbers that are not finite from a row: no mask keeps them from rows that have this place later."""
        for layer in self.open_layers:
            for buffer in layer.buffers:
                buffer[place] = 0

    def leave(self, place: int) -> None:
        """Remove a row: the last one takes its place."""
        own, last = self.columns, self.columns.rows - 1
        if place < last:
            used = slice(own.end - own.width, own.end)
            for layer in self.open_layers:
                for buffer in layer.buffers:
                    buffer[place, :, used] = buffer[last, :, used]
        self.lengths[place] = self.lengths[last]
        self.lengths.pop()
        own.rows, own.width = last, max(self.lengths, default=0)
        if not last:
            own.end = own.places = own.columns = 0
            for layer in self.open_layers:
                layer.buffers = []

"""The thin numbers of rows at one linear map, stacked so that one product serves rows of many adapters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bakeoff.compute.serving.forms import Thin

Plain = Callable[..., torch.Tensor]  # a module's own forward pass
UNKNOWN: Any = object()  # in a slot that nothing was put into


class Stack:
    """Tensors in one buffer, each in a slot; what one set of rows has in common with the next is not copied.

    A slot without a tensor has the `neutral` number everywhere, as the rest of one that is smaller than others.
    """

    def __init__(self, neutral: float):
        self.neutral = neutral
        self.held: list[torch.Tensor | None] = []
        self.buffer = torch.empty(0)

    def of(self, given: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Return tensors stacked, (rows, ...); at least one is not None."""
        new = [t for place, t in enumerate(given) if place >= len(self.held) or self.held[place] is not t]
        small = any(t is not None and any(map(int.__gt__, t.shape, self.buffer.shape[1:])) for t in new)
        if small or len(given) > len(self.held):
            self.grow([t for t in given if t is not None], len(given))
        for slot, tensor in enumerate(given if new else ()):
            if self.held[slot] is not tensor:
                self.put(slot, tensor)
        return self.buffer[: len(given)]

    def grow(self, given: Sequence[torch.Tensor], rows: int) -> None:
        """Make room for so many rows, as large as the largest of these tensors; nothing is kept."""
        places = max(rows, min(2 * len(self.held), 4 * rows))
        self.buffer = given[0].new_empty(places, *map(max, zip(*(t.shape for t in given), strict=True)))
        self.held = [UNKNOWN] * places

    def put(self, slot: int, tensor: torch.Tensor | None) -> None:
        """Let a slot hold a tensor."""
        self.held[slot], room = tensor, self.buffer[slot]
        if tensor is not None and tensor.shape == room.shape:
            room.copy_(tensor)
            return
        room.fill_(self.neutral)
        if tensor is not None:
            room[tuple(map(slice, tensor.shape))] = tensor


NEUTRAL = {"scale": 1.0, "gain": 1.0, "shift": 0.0, "down": 0.0, "up": 0.0}  # by the field of a Thin
Stacks = dict[str, Stack]  # of one linear map's running rows, by the field


def new_stacks() -> Stacks:
    """Return stacks that hold nothing."""
    return {field: Stack(neutral) for field, neutral in NEUTRAL.items()}


def thin_work(plain: Plain, forms: Sequence[Thin | None], device: torch.device, stacks: Stacks | None) -> Plain:
    """Return the forward pass of a linear map for rows with these thin numbers; at least one row has some.

    Rows of one token have their factors stacked. Without `stacks` rows have many tokens, and the products of their
    factors are made one after the other.
    """
    kept, distinct = stacks or new_stacks(), {form for form in forms if form is not None}

    def stacked(field: str) -> torch.Tensor | None:
        if all(getattr(form, field) is None for form in distinct):
            return None
        return kept[field].of([None if form is None else getattr(form, field) for form in forms])

    vectors = stacked("scale"), stacked("gain"), stacked("shift")
    if any(vector is not None for vector in vectors):
        plain = with_vectors_of(plain, *vectors)
    low = [place for place, form in enumerate(forms) if form is not None and form.down is not None]
    if not low:
        return plain
    if len(distinct) == 1 and len(low) == len(forms):
        return of_one(plain, *distinct)
    if stacks is None:
        return one_by_one(plain, [(place, form) for place, form in enumerate(forms) if form and place in low])
    index = None
    if 2 * len(low) < len(forms):  # else zeros for the others are cheaper than choosing rows
        order = in_slots(low, [form and form.down for form in forms], kept["down"].held)
        forms, index = [forms[place] for place in order], torch.tensor(order, device=device)
    down, up = stacked("down"), stacked("up")
    assert down is not None
    assert up is not None
    return side_by_side(plain, down.transpose(1, 2), up, index)


def in_slots(places: Sequence[int], given: Sequence[Any], held: Sequence[Any]) -> list[int]:
    """Return places in an order in which as many of the slots as there can be hold already what is given there."""
    left, placed = dict.fromkeys(places), list[int | None]()
    for tensor in held[: len(places)]:
        place = next((place for place in left if given[place] is tensor), None)
        placed.append(place)
        left.pop(place, None)  # type: ignore[arg-type]
    rest = iter(left)
    placed += [None] * (len(places) - len(placed))
    return [next(rest) if place is None else place for place in placed]


def with_vectors_of(
    plain: Plain, scale: torch.Tensor | None, gain: torch.Tensor | None, shift: torch.Tensor | None
) -> Plain:
    """Return a linear map whose rows have vectors (rows, width)."""

    def work(x: torch.Tensor) -> torch.Tensor:
        out = plain(x if scale is None else x * spread(scale, x))
        out = out if gain is None else out * spread(gain, out)
        return out if shift is None else out + spread(shift, out)

    return work


def spread(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return vectors (rows, width) in a shape that multiplies `x` (rows, ..., width)."""
    return rows.view(len(rows), *[1] * (x.ndim - 2), -1)


def of_one(plain: Plain, form: Thin) -> Plain:
    """Return a linear map with the factors of one adapter."""
    down, up = form.down, form.up
    assert down is not None
    assert up is not None

    def work(x: torch.Tensor) -> torch.Tensor:
        out, thin = plain(x), x @ down.T
        if not out.dtype == up.dtype == thin.dtype:
            return out + (thin @ up).to(out.dtype)
        return out.flatten(0, -2).addmm_(thin.flatten(0, -2), up).view(out.shape)

    return work


def one_by_one(plain: Plain, low: Sequence[tuple[int, Thin]]) -> Plain:
    """Return a linear map whose rows at these places have factors."""

    def work(x: torch.Tensor) -> torch.Tensor:
        out = plain(x)
        for place, form in low:
            assert form.down is not None
            assert form.up is not None
            own, thin = out[place], x[place] @ form.down.T
            if own.ndim == 2 and own.dtype == form.up.dtype == thin.dtype:
                own.addmm_(thin, form.up)
            else:
                own += thin @ form.up
        return out

    return work


def side_by_side(plain: Plain, down: torch.Tensor, up: torch.Tensor, index: torch.Tensor | None) -> Plain:
    """Return a linear map whose rows at `index`, or all, have factors (rows, inputs, rank) and (rows, rank, outputs).

    A row alone is multiplied several times as fast by a first factor of which each column is contiguous.
    """

    def work(x: torch.Tensor) -> torch.Tensor:
        out = plain(x)
        rows = x if index is None else x[index]
        thin = torch.bmm(rows if rows.ndim == 3 else rows.reshape(len(rows), -1, x.shape[-1]), down)
        if index is None and out.ndim == 3 and out.dtype == up.dtype == thin.dtype:
            return out.baddbmm_(thin, up)
        update = torch.bmm(thin, up).to(out.dtype).view(-1, *out.shape[1:])
        return out + update if index is None else out.index_add_(0, index, update)

    return work

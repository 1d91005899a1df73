"""The thin numbers of rows at one linear map, stacked so that one product serves rows of many adapters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bakeoff.compute.serving.forms import Form, Thin

Plain = Callable[..., torch.Tensor]  # a module's own forward pass
UNKNOWN: Any = object()  # in a slot that nothing was put into
NEUTRAL = {"scale": 1.0, "gain": 1.0, "shift": 0.0, "down": 0.0, "up": 0.0}  # by the field of a Thin


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
        slots, rows = dict(enumerate(given)), len(given)
        if not self.put(slots, rows):
            there = [tensor for tensor in given if tensor is not None]
            places = max(rows, min(2 * len(self.held), 4 * rows))
            self.buffer = there[0].new_empty(places, *map(max, zip(*(tensor.shape for tensor in there), strict=True)))
            self.held = [UNKNOWN] * places
            self.put(slots, rows)
        return self.buffer[:rows]

    def put(self, given: Mapping[int, torch.Tensor | None], rows: int) -> bool:
        """Let slots hold tensors, of so many slots in use; return False, and change nothing, if there is no room."""
        if rows > len(self.held):
            return False
        size = self.buffer.shape[1:]
        new = [(slot, tensor) for slot, tensor in given.items() if self.held[slot] is not tensor]
        if any(tensor is not None and any(map(int.__gt__, tensor.shape, size)) for _, tensor in new):
            return False
        for slot, tensor in new:
            self.held[slot], room = UNKNOWN, self.buffer[slot]  # should copying fail
            if tensor is None or tensor.shape != size:
                room.fill_(self.neutral)
                room = room if tensor is None else room[tuple(map(slice, tensor.shape))]
            if tensor is not None:
                room.copy_(tensor)
            self.held[slot] = tensor
        return True


Stacks = dict[str, Stack]  # of one linear map's running rows, by the field of a Thin


def new_stacks() -> Stacks:
    """Return stacks that hold nothing."""
    return {field: Stack(neutral) for field, neutral in NEUTRAL.items()}


def stacked(stacks: Stacks, field: str, forms: Sequence[Thin | None]) -> torch.Tensor | None:
    """Return the rows' numbers of a field, (rows, ...); None if no row has any."""
    given = [None if form is None else getattr(form, field) for form in forms]
    return None if all(tensor is None for tensor in given) else stacks[field].of(given)


def thin_work(plain: Plain, forms: Sequence[Thin | None], device: torch.device, stacks: Stacks | None) -> Plain:
    """Return the forward pass of a linear map for rows with these thin numbers; at least one row has some.

    Rows of one token have their factors stacked. Without `stacks` rows have many tokens, and the products of their
    factors are made one after the other.
    """
    low = {place: form for place, form in enumerate(forms) if form is not None and form.down is not None}
    one = forms[0] if len(low) == len(forms) and len({*forms}) == 1 else None
    few = 0 < 2 * len(low) < len(forms)  # else zeros for the others are cheaper than choosing rows
    if stacks is not None and one is None and not few:
        return SideBySide(plain, forms, stacks)
    kept = stacks or new_stacks()
    plain = with_vectors_of(plain, *(stacked(kept, field, forms) for field in ("scale", "gain", "shift")))
    if one is not None:
        return of_one(plain, one)
    if stacks is None:
        return one_by_one(plain, low) if low else plain
    order = in_slots([*low], low, [*kept["down"].held])
    factors = [stacked(kept, field, [low[place] for place in order]) for field in ("down", "up")]
    return of_few(plain, torch.tensor(order, device=device), *factors)


class SideBySide:
    """The forward pass of a linear map whose running rows have numbers in the slots of their places."""

    def __init__(self, plain: Plain, forms: Sequence[Thin | None], stacks: Stacks):
        self.plain, self.stacks = plain, stacks
        self.fields = [field for field in NEUTRAL if stacked(stacks, field, forms) is not None]
        self.see(len(forms))

    def see(self, rows: int) -> None:
        """Serve the rows in the first so many slots."""
        used = {field: self.stacks[field].buffer[:rows] for field in self.fields}
        down, self.up = used.get("down"), used.get("up")
        self.down = None if down is None else down.transpose(1, 2)
        self.work = with_vectors_of(self.plain, *map(used.get, ("scale", "gain", "shift")))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the map makes of rows (rows, ..., inputs)."""
        out, down, up = self.work(x), self.down, self.up
        if down is None or up is None:
            return out
        thin = torch.bmm(x, down) if x.ndim == 3 else side_by_side(x, down)
        if out.ndim == 3 and out.dtype == up.dtype == thin.dtype:
            return out.baddbmm_(thin, up)
        return out + torch.bmm(thin, up).to(out.dtype).view(out.shape)

    def moved(self, forms: Mapping[int, Form | None], rows: int) -> bool:
        """Serve so many rows, those at some places with other forms; return False if it takes another way."""
        for form in forms.values():
            if not (form is None or (isinstance(form, Thin) and all(f in self.fields for f in form.fields))):
                return False
        for field in self.fields:
            given = {place: None if form is None else getattr(form, field) for place, form in forms.items()}
            if not self.stacks[field].put(given, rows):
                return False
            some = sum(tensor is not None for tensor in self.stacks[field].held[:rows])
            if not some or (field == "down" and 2 * some < rows):
                return False
        self.see(rows)
        return True


def in_slots(places: Sequence[int], forms: Mapping[int, Thin], held: Sequence[Any]) -> list[int]:
    """Return places in an order in which as many slots as can be hold the first factor of the form there already."""
    left, placed = dict.fromkeys(places), list[int | None]()
    for tensor in held[: len(places)]:
        place = next((place for place in left if forms[place].down is tensor), None)
        placed.append(place)
        left.pop(place, None)  # type: ignore[arg-type]
    rest = iter(left)
    placed += [None] * (len(places) - len(placed))
    return [next(rest) if place is None else place for place in placed]


def with_vectors_of(
    plain: Plain, scale: torch.Tensor | None, gain: torch.Tensor | None, shift: torch.Tensor | None
) -> Plain:
    """Return a linear map whose rows have vectors (rows, width), if there are any."""
    if scale is None and gain is None and shift is None:
        return plain

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
    assert form.down is not None
    assert form.up is not None
    down, up = form.down.T, form.up

    def work(x: torch.Tensor) -> torch.Tensor:
        out, thin = plain(x), torch.mm(x.flatten(0, -2), down)
        if not out.dtype == up.dtype == thin.dtype:
            return out + torch.mm(thin, up).to(out.dtype).view(out.shape)
        return out.flatten(0, -2).addmm_(thin, up).view(out.shape)

    return work


def one_by_one(plain: Plain, low: Mapping[int, Thin]) -> Plain:
    """Return a linear map whose rows at these places have factors."""

    def work(x: torch.Tensor) -> torch.Tensor:
        out = plain(x)
        for place, form in low.items():
            assert form.down is not None
            assert form.up is not None
            own, thin = out[place], x[place] @ form.down.T
            if own.ndim == 2 and own.dtype == form.up.dtype == thin.dtype:
                own.addmm_(thin, form.up)
            else:
                own += thin @ form.up
        return out

    return work


def of_few(plain: Plain, index: torch.Tensor, down: torch.Tensor | None, up: torch.Tensor | None) -> Plain:
    """Return a linear map whose rows at `index` have factors (rows, rank, inputs) and (rows, rank, outputs)."""
    assert down is not None
    assert up is not None
    down = down.transpose(1, 2)

    def work(x: torch.Tensor) -> torch.Tensor:
        out, thin = plain(x), side_by_side(x[index], down)
        return out.index_add_(0, index, torch.bmm(thin, up).to(out.dtype).view(-1, *out.shape[1:]))

    return work


def side_by_side(x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Return rows (rows, ..., inputs), each multiplied by its factor (rows, inputs, rank): (rows, 1, rank).

    A row alone is multiplied several times as fast by a factor of which each column is contiguous.
    """
    return torch.bmm(x if x.ndim == 3 else x.reshape(len(x), -1, x.shape[-1]), down)

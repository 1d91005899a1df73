"""Lets rows of several adapters share each call of one model: rows are parted at modules that some adapter changes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bakeoff.compute.serving.forms import CannotMixError, Form, Own, Thin, Vectors, with_vectors

Key = Any  # an entry of the engine
Plain = Callable[..., torch.Tensor]  # a module's own forward pass


class Mixer:
    """A model whose modules serve each row as its entry asks; the model has no adapter of its own."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.modules = dict(model.named_modules())
        self.forms: dict[str, dict[Key, Form]] = {}  # by the module's name
        self.now: tuple[Key, ...] = ()  # whose rows the model is called for
        self.plans: dict[str, Plain] = {}  # by the module's name, for these rows
        self.kept: tuple[tuple[Key, ...], dict[str, Plain]] = ((), {})  # of the running batch
        self.factors: dict[str, Factors] = {}  # of the running batch
        self.seen: set[str] = set()  # changed modules that were called
        self.running, self.tokens = False, 1
        model.register_forward_pre_hook(self.count_tokens, with_kwargs=True)

    def count_tokens(self, _: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Note how many tokens each row has in this call of the model."""
        given = next(inputs[name] for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None)
        self.tokens = given.shape[1]

    def add(self, key: Key, forms: dict[str, Form]) -> None:
        """Let an entry change modules."""
        for name, form in forms.items():
            if name not in self.forms:
                self.forms[name] = {}
                module = self.modules[name]
                module.forward = self.parted(name, module, module.forward)
            self.forms[name][key] = form
        self.kept = ((), {})

    def remove(self, key: Key) -> None:
        """Forget an entry."""
        for name in [name for name, forms in self.forms.items() if key in forms]:
            del self.forms[name][key]
            self.factors.pop(name, None)
            if not self.forms[name]:
                del self.forms[name]
                del self.modules[name].forward  # the class has its own
        self.kept = ((), {})

    @contextmanager
    def serving(self, keys: Sequence[Key], running: bool) -> Iterator[None]:
        """Let the rows of the model's calls be those of these entries; `running` if they are the running batch."""
        self.now, self.plans = tuple(keys), {}
        if running:
            if self.kept[0] != self.now:
                self.kept = (self.now, {})
            self.plans = self.kept[1]
        self.running = running
        try:
            yield
        finally:
            self.now, self.plans = (), {}

    def parted(self, name: str, module: nn.Module, plain: Plain) -> Plain:
        """Return a module's forward pass in which each row is its entry's."""

        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            plan = self.plans.get(name)
            if self.running and plan is not None:  # at every token; the first one was checked
                return plan(x, *args, **kwargs)
            rows = len(self.now)
            flat = x.ndim == 2 and len(x) == rows * self.tokens != rows  # some architectures flatten rows and tokens
            if len(x) != rows and not flat:
                raise CannotMixError(f"{name}: {len(x)} rows where there are {rows}")
            self.seen.add(name)
            if plan is None:
                factors = self.factors.setdefault(name, Factors()) if self.running else None
                forms = [self.forms[name].get(key) for key in self.now]
                plan = self.plans[name] = Plan(module, plain, forms, x.device, factors).work
            return plan(x.unflatten(0, (rows, -1))).flatten(0, 1) if flat else plan(x, *args, **kwargs)

        return forward


class Plan:
    """What a module does for given rows; made once for each set of rows.

    `work` is the module's forward pass for these rows.
    """

    def __init__(
        self, module: nn.Module, plain: Plain, forms: Sequence[Form | None], device: torch.device,
        factors: "Factors | None",
    ):  # fmt: skip
        own: dict[Own, list[int]] = {}
        for place, form in enumerate(forms):
            if isinstance(form, Own):
                own.setdefault(form, []).append(place)
        rest = [place for place, form in enumerate(forms) if not isinstance(form, Own)]
        self.shared = self.shared_work(module, plain, [forms[place] for place in rest], device, factors)
        self.work = self.shared
        if own:
            self.own = [(form.module, torch.tensor(places, device=device)) for form, places in own.items()]
            self.rest = torch.tensor(rest, device=device)
            self.work = self.own[0][0] if len(self.own) == 1 and not rest else self.parted

    def shared_work(
        self, module: nn.Module, plain: Plain, forms: Sequence[Form | None], device: torch.device,
        factors: "Factors | None",
    ) -> Plain:  # fmt: skip
        """Return the base's module for rows that share it, each with its own vectors and factors."""
        if any(isinstance(form, Vectors) for form in forms):
            rows = stacked(module, forms)
            return lambda x: with_vectors(module, rows, x)
        thin = [form if isinstance(form, Thin) else None for form in forms]
        if not any(thin):
            return plain
        gathered = Gathered(thin, device, factors)
        return lambda x: gathered.apply(plain, x)

    def parted(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return what comes out for rows of which some have modules of their own."""
        parts = [(places, module(x[places], *args, **kwargs)) for module, places in self.own]
        if len(self.rest):
            parts.append((self.rest, self.shared(x[self.rest], *args, **kwargs)))
        first = parts[0][1]
        out = first.new_empty(len(x), *first.shape[1:])
        for places, rows in parts:
            out[places] = rows
        return out


def stacked(module: nn.Module, forms: Sequence[Form | None]) -> dict[str, torch.Tensor]:
    """Return each row's vectors, (rows, width); a row without a form has the module's."""
    return {
        name: torch.stack([form.values[name] if isinstance(form, Vectors) else own.data for form in forms])
        for name, own in module._parameters.items()
        if own is not None
    }


class Gathered:
    """The thin numbers of each row at one linear map.

    Rows of one token have their factors stacked, in `factors`. Where none are given rows have many tokens, and their
    products are made one after the other.
    """

    def __init__(self, forms: Sequence[Thin | None], device: torch.device, factors: "Factors | None"):
        self.scale = vectors([form.scale if form else None for form in forms], 1.0)
        self.gain = vectors([form.gain if form else None for form in forms], 1.0)
        self.shift = vectors([form.shift if form else None for form in forms], 0.0)
        self.vectors = any(vector is not None for vector in (self.scale, self.gain, self.shift))
        low = {place: form for place, form in enumerate(forms) if form is not None and form.down is not None}
        whole = len(low) == len(forms)
        self.each: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.low: torch.Tensor | None = None  # which rows have factors; None where all do
        self.down = self.up = None
        if factors is None and (len(low) > 1 or not whole):
            self.each = [(place, f.down, f.up) for place, f in low.items() if f.down is not None and f.up is not None]
        elif len({id(form) for form in low.values()}) == 1:  # nothing is to be gathered
            only = next(iter(low.values()))
            self.down, self.up = only.down, only.up
        elif low and factors is not None:
            order = [*low] if whole else factors.order(low)
            self.down, self.up = factors.take([low[place] for place in order])
            low = {place: low[place] for place in order}
        if low and not whole:
            self.low = torch.tensor([*low], device=device)

    def apply(self, plain: Plain, x: torch.Tensor) -> torch.Tensor:
        """Return what a linear map makes of `x` (rows, ..., inputs), with each row's numbers."""
        if self.vectors:
            out = plain(x if self.scale is None else x * spread(self.scale, x))
            out = out if self.gain is None else out * spread(self.gain, out)
            out = out if self.shift is None else out + spread(self.shift, out)
        else:
            out = plain(x)
        for place, down, up in self.each:
            out[place] += x[place] @ down @ up
        if self.down is None or self.up is None:
            return out
        if self.down.ndim == 2:
            update = (x if self.low is None else x[self.low]) @ self.down @ self.up
            return out + update if self.low is None else out.index_add_(0, self.low, update.to(out.dtype))
        rows = x if self.low is None else x[self.low]
        thin = torch.bmm(rows if rows.ndim == 3 else rows.reshape(len(rows), -1, x.shape[-1]), self.down)
        if self.low is None and out.ndim == 3 and out.dtype == self.up.dtype == thin.dtype:
            return out.baddbmm_(thin, self.up)
        update = torch.bmm(thin, self.up).to(out.dtype).view(-1, *out.shape[1:])
        return out + update if self.low is None else out.index_add_(0, self.low, update)


class Factors:
    """Low-rank factors of rows, stacked in slots: what one set of rows has in common with the next is not copied."""

    def __init__(self) -> None:
        self.forms: list[Thin | None] = []  # in each slot
        self.down = self.up = torch.empty(0)

    def order(self, low: dict[int, Thin]) -> list[int]:
        """Return these rows in an order that leaves as many slots as they are as there can be."""
        left, placed = dict(low), list[int | None]()
        for form in self.forms[: len(low)]:
            place = next((place for place, other in left.items() if other is form), None)
            placed.append(place)
            left.pop(place, None)  # type: ignore[arg-type]
        rest = iter(left)
        placed += [None] * (len(low) - len(placed))
        return [next(rest) if place is None else place for place in placed]

    def take(self, forms: Sequence[Thin]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factors (rows, inputs, rank) and (rows, rank, outputs) of these forms, zeros up to one rank."""
        pairs = [(form.down, form.up) for form in forms if form.down is not None and form.up is not None]
        rank = max(len(up) for _, up in pairs)
        if len(forms) > len(self.forms) or rank > self.down.shape[-1]:
            down, up = pairs[0]
            places = max(len(forms), min(2 * len(self.forms), 4 * len(forms)))
            self.down, self.up = down.new_zeros(places, len(down), rank), up.new_zeros(places, rank, up.shape[1])
            self.forms = [None] * places
        for slot, (form, (down, up)) in enumerate(zip(forms, pairs, strict=True)):
            if self.forms[slot] is not form:
                self.forms[slot] = form
                self.down[slot, :, : len(up)], self.up[slot, : len(up)] = down, up
                if len(up) < self.down.shape[-1]:
                    self.down[slot, :, len(up) :] = self.up[slot, len(up) :] = 0
        return self.down[: len(forms)], self.up[: len(forms)]


def vectors(given: Sequence[torch.Tensor | None], neutral: float) -> torch.Tensor | None:
    """Return vectors stacked, (rows, width), with neutral ones where there are none; None if there are none at all."""
    like = next((vector for vector in given if vector is not None), None)
    if like is None:
        return None
    return torch.stack([torch.full_like(like, neutral) if vector is None else vector for vector in given])


def spread(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return vectors (rows, width) in a shape that multiplies `x` (rows, ..., width)."""
    return rows.view(len(rows), *[1] * (x.ndim - 2), -1)

"""Lets rows of several adapters share each call of one model: rows are parted at modules that some adapter changes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bakeoff.compute.serving.forms import CannotMixError, Form, Own, Thin, Vectors, with_vectors
from bakeoff.compute.serving.stacking import Plain, SideBySide, Stacks, new_stacks, thin_work

Key = Any  # an entry of the engine


class Mixer:
    """A model whose modules serve each row as its entry asks; the model has no adapter of its own."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.modules = dict(model.named_modules())
        self.forms: dict[str, dict[Key, Form]] = {}  # by the module's name
        self.now: tuple[Key, ...] = ()  # whose rows the model is called for
        self.plans: dict[str, Plain] = {}  # by the module's name, for these rows
        self.kept: tuple[tuple[Key, ...], dict[str, Plain]] = ((), {})  # of the running batch
        self.stacks: dict[str, Stacks] = {}  # of the running batch
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
            self.stacks.pop(name, None)
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
                before, self.kept = self.kept, ((), {})  # should it fail
                self.kept = (self.now, self.moved(*before))
            self.plans = self.kept[1]
        self.running = running
        try:
            yield
        finally:
            self.now, self.plans = (), {}

    def moved(self, before: Sequence[Key], plans: Mapping[str, Plain]) -> dict[str, Plain]:
        """Return those plans of other rows that serve the rows of now, too; others are made when they are needed."""
        now = self.now
        if len({*now, *before}) == 1:
            return {name: plan for name, plan in plans.items() if of_any_rows(self.forms[name].get(now[0]))}
        if len({*now}) == 1:
            return {}
        new = [place for place, key in enumerate(now) if place >= len(before) or before[place] is not key]
        return {
            name: plan
            for name, plan in plans.items()
            if isinstance(plan, SideBySide)
            and plan.moved({place: self.forms[name].get(now[place]) for place in new}, len(now))
        }

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
                stacks = self.stacks.setdefault(name, new_stacks()) if self.running else None
                forms = [self.forms[name].get(key) for key in self.now]
                plan = self.plans[name] = work_of(module, plain, forms, x.device, stacks)
            return plan(x.unflatten(0, (rows, -1))).flatten(0, 1) if flat else plan(x, *args, **kwargs)

        return forward


def of_any_rows(form: Form | None) -> bool:
    """Return whether a plan for rows that all have a form is that for any number of them: vectors are stacked."""
    return form is None or isinstance(form, Own) or (isinstance(form, Thin) and form.fields == ("down", "up"))


def work_of(
    module: nn.Module, plain: Plain, forms: Sequence[Form | None], device: torch.device, stacks: Stacks | None
) -> Plain:
    """Return a module's forward pass for rows with these forms; `stacks` are kept if each row has one token."""
    own: dict[Own, list[int]] = {}
    for place, form in enumerate(forms):
        if isinstance(form, Own):
            own.setdefault(form, []).append(place)
    rest = [place for place, form in enumerate(forms) if not isinstance(form, Own)]
    shared = shared_work(module, plain, [forms[place] for place in rest] if own else forms, device, stacks)
    if not own:
        return shared
    parts: list[tuple[Plain, torch.Tensor]] = [
        (form.module, torch.tensor(places, device=device)) for form, places in own.items()
    ]
    if rest:
        parts.append((shared, torch.tensor(rest, device=device)))
    return parts[0][0] if len(parts) == 1 else parted(parts)


def shared_work(
    module: nn.Module, plain: Plain, forms: Sequence[Form | None], device: torch.device, stacks: Stacks | None
) -> Plain:
    """Return the base's module for rows that share it, each with its own vectors and factors."""
    if any(isinstance(form, Vectors) for form in forms):
        rows = stacked(module, forms)
        return lambda x: with_vectors(module, rows, x)
    thin = [form if isinstance(form, Thin) else None for form in forms]
    return thin_work(plain, thin, device, stacks) if any(thin) else plain


def parted(parts: Sequence[tuple[Plain, torch.Tensor]]) -> Plain:
    """Return a forward pass in which each work has the rows at its places."""

    def work(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        done = [(places, work(x[places], *args, **kwargs)) for work, places in parts]
        first = done[0][1]
        out = first.new_empty(len(x), *first.shape[1:])
        for places, rows in done:
            out[places] = rows
        return out

    return work


def stacked(module: nn.Module, forms: Sequence[Form | None]) -> dict[str, torch.Tensor]:
    """Return each row's vectors, (rows, width); a row without a form has the module's."""
    return {
        name: torch.stack([form.values[name] if isinstance(form, Vectors) else own.data for form in forms])
        for name, own in module._parameters.items()
        if own is not None
    }

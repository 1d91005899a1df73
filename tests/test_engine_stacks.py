"""What running rows of one linear map have stacked: each row's own numbers, whatever was in its slot before."""

import random

import pytest
import torch
from torch import nn

from bakeoff.compute.serving.forms import Own, Thin
from bakeoff.compute.serving.mixing import Mixer
from bakeoff.compute.serving.stacking import SideBySide, Stack, in_slots, new_stacks, thin_work

IN, OUT = 6, 5


def form(seed):
    """Return numbers of a rank and with vectors that depend on the seed."""
    made, rank = torch.Generator().manual_seed(seed), 1 + seed % 3

    def drawn(*shape):
        return torch.randn(*shape, generator=made)

    factors = {"down": drawn(rank, IN), "up": drawn(rank, OUT)} if seed % 4 else {}
    vectors = {"scale": drawn(IN), "gain": drawn(OUT), "shift": drawn(OUT)}
    return Thin(
        **factors, **{name: vector for place, (name, vector) in enumerate(vectors.items()) if seed >> place & 1}
    )


def wanted(linear, form, x):
    """Return what one row's linear map makes of it, by the definition of its numbers."""
    if form is None:
        return linear(x)
    out = linear(x if form.scale is None else x * form.scale)
    out = out if form.gain is None else out * form.gain
    out = out if form.shift is None else out + form.shift
    return out if form.down is None else out + x @ form.down.T @ form.up


@torch.no_grad()
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tokens", [1, 3])
def test_every_row_has_its_own_numbers_whoever_joins_and_leaves(seed, tokens):
    torch.manual_seed(seed)
    chosen, linear, known = random.Random(seed), nn.Linear(IN, OUT), [form(n) for n in range(12)]
    stacks, work, before, kept = new_stacks() if tokens == 1 else None, None, [], 0
    for _ in range(20):
        rows = [row for row in before if chosen.random() < 0.8]
        few = chosen.sample(known, chosen.choice([1, 2, 12]))  # one adapter has another way
        rows += [chosen.choice([*few, None]) for _ in range(chosen.randint(0, 5))]
        new = {place: row for place, row in enumerate(rows) if before[place : place + 1] != [row]}
        if any(rows):
            x = torch.randn(len(rows), tokens, IN)
            moved = isinstance(work, SideBySide) and work.moved(new, len(rows))
            work = work if moved else thin_work(linear, rows, x.device, stacks)
            right = torch.cat([wanted(linear, row, part[None]) for row, part in zip(rows, x, strict=True)])
            torch.testing.assert_close(work(x.clone()), right)
            if tokens == 1:  # some architectures call a module with rows alone
                torch.testing.assert_close(work(x[:, 0]), right[:, 0])
            before, kept = rows, kept + moved
    assert kept or tokens > 1


class OneMap(nn.Module):
    """A model of one linear map, which takes vectors for ids."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(IN, OUT)

    def forward(self, input_ids):
        return self.map(input_ids)


@torch.no_grad()
@pytest.mark.parametrize(
    ("of", "planned_again"),
    [
        (lambda own: Thin(torch.randn(2, IN), torch.randn(2, OUT)), False),
        (lambda own: Thin(torch.randn(2, IN), torch.randn(2, OUT), gain=torch.randn(OUT)), True),
        (lambda own: Thin(scale=torch.randn(IN)), True),
        (lambda own: Own(own), False),
    ],
)
def test_rows_of_one_entry_are_planned_once_however_many_they_are(of, planned_again):
    model, own = OneMap(), nn.Linear(IN, OUT)
    plain, made = model.map.forward, of(own)
    mixer, plans = Mixer(model), []
    mixer.add("a", {"map": made})
    for rows in (2, 5, 1):
        x = torch.randn(rows, 1, IN)
        with mixer.serving(["a"] * rows, running=True):
            found = model(input_ids=x.clone())
        right = own(x) if isinstance(made, Own) else wanted(plain, made, x)
        torch.testing.assert_close(found, right)
        plans.append(mixer.kept[1]["map"])
    assert len({id(plan) for plan in plans}) == (3 if planned_again else 1)


def test_only_what_changed_is_copied():
    stack, tensors = Stack(0.0), [torch.full((2, 2), float(n)) for n in range(4)]
    stack.of(tensors)
    stack.buffer += 10
    assert stack.of([*tensors[:2], tensors[0], None]).flatten(1)[:, 0].tolist() == [10, 11, 0, 0]
    assert stack.of(tensors[:3]).flatten(1)[:, 0].tolist() == [10, 11, 2]


def test_rows_keep_the_slots_that_hold_their_numbers():
    a, b, c = (form(n) for n in (1, 2, 3))
    held = [c.down, None, a.down, b.down]
    assert in_slots([1, 4, 6], {1: a, 4: b, 6: c}, held) == [6, 4, 1]
    assert in_slots([0, 1], {0: a, 1: a}, [a.down, a.down]) == [0, 1]
    assert in_slots([2, 3], {2: a, 3: b}, []) == [2, 3]

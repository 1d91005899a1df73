"""How many threads a served engine computes with: one less than there are, unless the last one is worth its core."""

import pytest
import torch

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.serving import threads
from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.threads import LONG_STEP, core_left, step_seconds
from bakeoff.testing.families import family_base


@pytest.fixture(scope="module")
def engine():
    return Engine(conforming(family_base("gpt2"))[0])


@pytest.fixture
def cores(monkeypatch):
    """A machine with four cores, and how many threads torch has."""
    now = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    return now


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({4: 0.010, 3: 0.009}, 3),
        ({4: 0.010, 3: 0.012}, 3),
        ({4: 0.010, 3: 0.015}, 4),
        ({4: 2 * LONG_STEP, 3: 0.001}, 4),
    ],
)
def test_a_core_is_left_unless_it_makes_steps_much_faster(engine, cores, monkeypatch, seconds, chosen):
    monkeypatch.setattr(threads, "step_seconds", lambda engine: iter([seconds[cores[0]]] * 3))
    with core_left(engine) as used:
        assert used == cores[0] == chosen
    assert cores == [4]


def test_one_thread_stays_one(engine, cores):
    cores[0] = 1
    with core_left(engine) as used:
        assert used == 1


def test_trying_steps_leaves_nothing_in_the_engine(engine):
    assert len([*step_seconds(engine)]) > 1
    assert (engine.running, engine.waiting, engine.rows) == (0, 0, {})

"""Random schedules of requests, cancellations, loads and unloads: every output is what evaluation writes, or its start.

`BAKEOFF_FUZZ=2000 python -m pytest tests/test_engine_schedules.py` tries as many others.
"""

import random
from collections import defaultdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.request import Request
from bakeoff.testing import family_base
from tests.conftest import many
from tests.test_engine import ENDS, MOST, PROMPTS, save, wanted

METHODS = (
    "lora", "dora", "ia3", "last_layers", "prompt_tuning", "prefix_tuning", "layer_norm", "lokr", "full", "vblora",
)  # fmt: skip
FAMILY = ("llama", "gemma3", "qwen2", "t5")  # a sliding window, biases, and an encoder-decoder among them


@pytest.fixture(scope="module")
def adapters():
    """A function that returns the folder of a method's adapter for a family, written once."""
    with TemporaryDirectory(prefix="bakeoff-") as temporary:

        @cache
        def adapter(family, name):
            return save(Path(temporary, family, name), family_base(family), name)

        yield adapter


class Schedule:
    """An engine, what it was asked, and what it answered."""

    def __init__(self, family, adapters, chosen):
        self.family, self.adapters, self.chosen = family, adapters, chosen
        self.engine = Engine(family_base(family), max_rows=chosen.randint(1, 7), chunk_tokens=chosen.choice([1, 7, 32]))
        self.folders = {}  # of the loaded adapters, by name
        self.asked, self.got, self.ended, self.gone = {}, defaultdict(list), {}, set()

    def load(self):
        name, method = self.chosen.choice("abc"), self.chosen.choice(METHODS)
        if name not in self.folders:
            self.folders[name] = self.adapters(self.family, method)
            self.engine.load(name, self.folders[name])

    def unload(self):
        if self.folders:
            name = self.chosen.choice(sorted(self.folders))
            self.engine.unload(name)
            del self.folders[name]

    def submit(self):
        name = self.chosen.choice([None, *self.folders])
        place, most = self.chosen.randrange(len(PROMPTS)), self.chosen.randint(1, MOST)
        row = self.engine.submit(name, Request(PROMPTS[place], most, ENDS))
        whole = wanted(self.family, self.folders.get(name))[place]
        self.asked[row] = whole[:most], "length" if len(whole) >= most else "stop"

    def cancel(self):
        if self.asked:
            row = self.chosen.choice(sorted(self.asked))
            self.engine.cancel(row)
            if row not in self.ended:
                self.gone.add(row)

    def step(self):
        events = self.engine.step()
        assert len({event.row for event in events}) == len(events) <= self.engine.max_rows
        for event in events:
            assert event.row not in self.gone
            assert event.row not in self.ended
            self.got[event.row] += [] if event.token is None else [event.token]
            if event.finished:
                self.ended[event.row] = event.finished
        assert self.engine.running <= self.engine.max_rows

    def check(self):
        for row, (output, finished) in self.asked.items():
            if row in self.gone:
                assert output[: len(self.got[row])] == self.got[row]
            else:
                assert (self.got[row], self.ended[row]) == (output, finished)
        assert (self.engine.running, self.engine.waiting, self.engine.leaving) == (0, 0, [])


@given(st.randoms(use_true_random=False))
@many(6)
def test_no_schedule_changes_what_a_row_writes(adapters, chosen):
    schedule = Schedule(random.Random(chosen.random()).choice(FAMILY), adapters, random.Random(chosen.random()))
    for _ in range(schedule.chosen.randint(10, 40)):
        actions = ["step"] * 4 + ["submit"] * 4 + ["load", "load", "unload", "cancel"]
        getattr(schedule, schedule.chosen.choice(actions))()
    for _ in range(400):
        if not schedule.engine.rows:
            break
        schedule.step()
    schedule.step()
    schedule.check()

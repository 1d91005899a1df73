"""How long a run that is asked to stop is waited for: as long as its checkpoint needs, and not for one that hangs."""

import math

import pytest

from bakeoff.driver import attempt as attempts
from bakeoff.store.events import Progress, State
from bakeoff.store.records import Run, Task
from bakeoff.store.run_folder import Folder

RUN = Run("lora-1", "lora", "entry", "lora", {}, 0, steps=100)


class Server:
    """Says what stands in a script, each at its second; the clock moves on with every poll."""

    def __init__(self, script):
        self.script, self.now = list(script), 0.0

    def ask(self, *_):
        pass

    def kill(self, *_):
        pass

    def ended(self):
        return None

    def hear(self):
        before = self.now
        if self.script and self.script[0][0] <= self.now + attempts.POLL_SECONDS:
            self.now, message = self.script.pop(0)
            return message, self.now - before
        self.now += attempts.POLL_SECONDS
        return None, attempts.POLL_SECONDS


def events_of(attempt, server, stop=bool):
    """Yield the events of a run with such a server, until it is over."""
    while not attempt.over:
        yield from attempt.take(*server.hear(), stop())


def said(**values):
    kind = State if "state" in values else Progress
    rest = {"tokens_per_second": 1.0, "seconds_left": 1.0} if "step" in values else {}
    return {"event": kind(run=RUN.id, **rest, **values).row()}


def steps(seconds, count):
    return [(seconds * i, said(step=i, steps=100)) for i in range(1, count + 1)]


@pytest.mark.parametrize(
    ("script", "asked", "until"),
    [
        # it stops by itself, after a step of 30 seconds and a checkpoint of five minutes
        ([*steps(30, 4), (125, said(state="saving")), (425, {"exit": 143})], 100, None),
        # a step with a validation of 50 seconds was seen, and comes again
        ([*steps(30, 2), (110, said(step=3, steps=100)), (200, {"exit": 143})], 112, None),
        # a validation longer than any before reports every five seconds that it is running
        ([*steps(1, 9), *((t, said()) for t in range(10, 200, 5)), (201, {"exit": 143})], 12, None),
        # it hangs
        (steps(1, 9), 15, 35),
        (steps(15, 3), 46, 76),
        # nothing to save
        ([(1, said(state="testing")), (90, {"exit": 0})], 50, 50),
        ([(1, said(state="saving")), (60, said(state="loading")), (90, {"exit": 0})], 50, 60),
    ],
)
def test_the_grace_grows_with_what_was_measured(tmp_path, monkeypatch, script, asked, until):
    server = Server([(0, {"started": 1}), (0, said(state="training")), *script])
    monkeypatch.setattr(attempts.time, "monotonic", lambda: server.now)
    attempt = attempts.Attempt(server, Folder(tmp_path), Task(RUN, "train"), 1800.0)
    for _ in events_of(attempt, server, lambda: server.now >= asked):
        pass
    ended = server.now if attempt.given_up else math.inf
    assert ended == pytest.approx(until or math.inf, abs=1.0)

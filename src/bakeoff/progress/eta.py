"""How long the rest of a bakeoff takes: the work that its plan leaves, multiplied with measured seconds per unit."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.throughput import Rates, planned_work
from bakeoff.store.event_log import EventClock
from bakeoff.store.events import Event, RunEvent, Start
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run, Step


@dataclass
class Running:
    """A run whose process is running: its phase, and since when nothing of it was counted."""

    since: float
    phase: str = "loading"
    warm: bool = False  # its first validation and step, which are slow, are behind it


class Forecast:
    """Takes every event and says how long a run, or all that is left, will take.

    `done` are runs that are not repeated, `steps` how many each trial took before, `rates` what earlier sessions have
    measured, and `again` trained runs whose outputs are made or scored again.
    """

    def __init__(
        self, runs: Sequence[Run], plan: PlanDocument, protocol: ProtocolConfig, done: Collection[str] = (),
        steps: Mapping[str, int] | None = None, clock: Callable[[], float] = time.monotonic,
        rates: Rates | None = None, again: Mapping[str, Step] | None = None,
    ):  # fmt: skip
        self.runs, self.rungs, self.clock = {run.id: run for run in runs}, plan.rungs, clock
        self.rates = rates or Rates(runs, plan, protocol)
        to_do: dict[str, Step] = {**dict.fromkeys(done, "nothing"), **(again or {})}
        self.work = planned_work(runs, plan, protocol.seed, self.rates.training, to_do)
        self.left_by_run = {run.id: self.work[run.entry, "trial" if run.kind == "trial" else run.id] for run in runs}
        self.trained = defaultdict[str, float](float)  # multiplications of each run
        self.running: dict[str, Running] = {}
        for run in [run for run in runs if steps and run.id in steps]:
            self.trained[run.id] = self.rates.multiplications(run.entry, (steps or {})[run.id])
            self.left_by_run[run.id]["training"] -= self.trained[run.id]

    def add(self, run: Run) -> None:
        """Take in an extension: the entry's other trials have ended, and this one is all that is left of them."""
        self.runs[run.id], self.left_by_run[run.id] = run, self.work[run.entry, "trial"]
        self.left_by_run[run.id].update(loading=1, saving=1, training=self.rates.training[run.entry])

    def take(self, event: RunEvent) -> None:
        """Count what was done until the event."""
        run, state = self.runs[event.run], event.state if event.kind == "state" else event.kind
        if state == "stopped":  # it has paused before
            return
        running, left = self.running.setdefault(run.id, Running(self.clock())), self.left_by_run[run.id]
        if run.kind == "entry":  # the choice among its trials is made
            self.work[run.entry, "trial"].clear()
        units = self.units(event, run, running.phase)
        if units is None:
            return
        left[running.phase] -= units
        if running.warm or running.phase != "training":
            self.rates.add(run.entry, running.phase, units, self.clock() - running.since)
        running.since, running.warm = self.clock(), running.warm or event.kind == "progress"
        if event.kind == "state" and state != "paused":
            if running.phase == "training" and run.kind == "entry":  # patience may have ended it
                left["training"] = 0.0
            # After saving, the adapter is loaded again for its test, of which that is a part.
            running.phase = "testing" if (running.phase, state) == ("saving", "loading") else state
        elif event.kind not in ("progress", "metrics"):
            del self.running[run.id]
            if event.kind != "state" and run.kind != "trial":
                left.clear()

    def units(self, event: RunEvent, run: Run, phase: str) -> float | None:
        """Return how much of its phase a run has done since the last event; None where this one does not say."""
        if event.kind == "progress" and event.examples is not None and event.examples_total:
            if run.entry == "base" and event.read_tokens and event.read_seconds:
                self.rates.pace = event.read_seconds / event.read_tokens * self.rates.tokens
            return self.left_by_run[run.id]["generating"] - (event.examples_total - event.examples)
        if event.kind == "progress" or event.kind == "metrics":
            if event.step is None or phase != "training":
                return None
            before = self.trained[run.id]
            self.trained[run.id] = self.rates.multiplications(run.entry, event.step, event.kind == "metrics")
            return self.trained[run.id] - before
        if event.kind == "state" and event.state in (phase, "validating"):
            return None
        return 0.0 if phase in ("training", "generating") else 1.0

    def left(self) -> float | None:
        """Return the seconds until everything is done; None as long as some rate is unknown."""
        return self.seconds(((entry, left) for (entry, _), left in self.work.items()), self.running.values())

    def left_of(self, run_id: str) -> float | None:
        """Return the seconds until a run that is running ends, a trial until it pauses; None while unknown."""
        if run_id not in self.running:
            return None
        run, trained = self.runs[run_id], self.trained[run_id]
        left: Mapping[str, float] = self.left_by_run[run.id]
        if run.kind == "trial":
            rungs = [self.rates.multiplications(run.entry, rung) for rung in self.rungs]
            until = next((rung for rung in rungs if rung > trained), self.rates.training[run.entry])
            left = {"training": until - trained, "saving": 1}
        return self.seconds([(run.entry, left)], [self.running[run_id]])

    def seconds(self, work: Iterable[tuple[str, Mapping[str, float]]], running: Iterable[Running]) -> float | None:
        """Return how long the work of entries takes, less what runs have spent on it; None while unknown."""
        parts = (n * self.rates.rate(entry, phase) for entry, left in work for phase, n in left.items() if n > 0)
        seconds = sum(parts) - sum(self.clock() - one.since for one in running)
        return max(0.0, seconds) if math.isfinite(seconds) else None

    def basis(self) -> str | None:
        """Return what the forecast is estimated from, in words, until an entry has trained; then None."""
        if self.rates.units["all entries", "training"] or not any(left["training"] > 0 for left in self.work.values()):
            return None
        return "estimated from the speed of the untouched base: no entry has trained long enough yet"


def measured_before(
    events: Iterable[Event], runs: Sequence[Run], plan: PlanDocument, protocol: ProtocolConfig
) -> Rates:
    """Return the rates of the sessions in `events`. Each has a clock of its own; runs of other plans are left out."""
    rates = Rates(runs, plan, protocol)
    for event in chain([Start(done=[], steps={})], events):
        if event.kind == "start":
            clock = EventClock()
            session = Forecast(runs, plan, protocol, clock=clock, rates=rates)
        elif isinstance(event, RunEvent) and event.run in session.runs:
            clock.at = event.time
            session.take(event)
    return rates

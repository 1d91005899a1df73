"""How long the rest of a bakeoff takes: the work that its plan leaves, multiplied with measured seconds per unit."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.throughput import Rates, part_of
from bakeoff.store.event_log import EventClock
from bakeoff.store.events import NOT_NEEDED, Event, RunEvent, Start
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run


@dataclass
class Running:
    """A run whose process is running: its phase, and since when nothing of it was counted."""

    phase: str
    since: float
    warm: bool = False  # its first validation and step, which are slow, are behind it


class Forecast:
    """Takes every event of a session and says how long a run, or everything that is left, will take.

    `rates` are those of the session's plan, with measurements of earlier sessions; `start` says what is done already.
    """

    def __init__(self, rates: Rates, start: Start, clock: Callable[[], float]):
        self.rates, self.clock, self.running, self.workers = rates, clock, dict[str, Running](), start.workers
        self.runs = {run.id: run for run in rates.plan.runs}
        self.work = rates.planned({**dict.fromkeys(start.done, "nothing"), **start.again})
        self.trained = defaultdict[str, float](float)  # multiplications of each run
        for run in [self.runs[run_id] for run_id in start.steps if run_id in self.runs]:
            self.trained[run.id] = rates.multiplications(run.entry, start.steps[run.id])
            self.work[part_of(run)]["training"] -= self.trained[run.id]

    def add(self, run: Run) -> None:
        """Take in an extension: the entry's other trials have ended, and this one is all that is left of them.

        A trial that the search asked for is part of the plan's amounts already.
        """
        self.runs[run.id] = run
        if (run.trial or 0) <= self.rates.plan.entries[run.entry].trials:
            return
        self.work[part_of(run)].update(loading=1, saving=1, training=self.rates.training[run.entry])

    def take(self, event: RunEvent) -> None:
        """Count what was done until the event. If an event does not say it, the next one counts."""
        run, state = self.runs[event.run], event.state if event.kind == "state" else event.kind
        if state == "stopped":  # it has paused before
            return
        if state == NOT_NEEDED:
            self.work[part_of(run)].clear()
            return
        running, left = self.running.setdefault(run.id, Running(state, self.clock())), self.work[part_of(run)]
        phase, trained = running.phase, self.trained[run.id]
        if run.kind == "entry":  # the choice among its trials is made
            self.work[run.entry, "trial"].clear()
        units = 0.0 if phase in ("training", "generating") else 1.0
        if event.kind == "progress" and event.examples is not None and event.examples_total:
            units = left["generating"] - (event.examples_total - event.examples)
            if run.entry == "base" and event.read_tokens and event.read_seconds:
                self.rates.add("base", "training", event.read_tokens * self.rates.per_token, event.read_seconds)
        elif event.kind == "progress" or event.kind == "metrics":
            if event.step is None or phase != "training":
                return
            self.trained[run.id] = self.rates.multiplications(run.entry, event.step, event.kind == "metrics")
            units = self.trained[run.id] - trained
        elif event.kind == "state" and state in (phase, "validating"):
            return
        left[phase] -= units
        if running.warm or phase != "training":
            self.rates.add(run.entry, phase, units, self.clock() - running.since)
        running.since, running.warm = self.clock(), running.warm or event.kind == "progress"
        if event.kind == "state" and state != "paused":
            if state == "training":  # its trunk is there
                left["trunk"] = 0.0
            elif phase == "training" and run.kind == "entry":  # patience may have ended it
                left["training"] = 0.0
            # After saving, the adapter is loaded again for its test, of which that is a part.
            running.phase = "testing" if (phase, state) == ("saving", "loading") else state
        elif event.kind not in ("progress", "metrics"):
            del self.running[run.id]
            if run.kind != "trial":
                left.clear()

    def left(self) -> float | None:
        """Return the seconds until everything is done; None as long as some rate is unknown."""
        whole = self.seconds(((entry, left) for (entry, _), left in self.work.items()), self.running.values())
        if whole is None or self.workers == 1:
            return whole
        # At best all workers are busy until the end. It takes no less than the longest of the runs that are running.
        return max([whole / self.workers, *filter(None, map(self.left_of, self.running))])

    def left_of(self, run_id: str) -> float | None:
        """Return the seconds until a run that is running ends, a trial until it pauses; None while unknown."""
        if run_id not in self.running:
            return None
        run, trained = self.runs[run_id], self.trained[run_id]
        left: Mapping[str, float] = self.work[part_of(run)]
        if run.kind == "trial":
            ends = [self.rates.multiplications(run.entry, rung) for rung in self.rates.plan.rungs]
            end = min((end for end in ends if end > trained), default=self.rates.training[run.entry])
            left = {"trunk": left["trunk"], "training": end - trained, "saving": 1}
        return self.seconds([(run.entry, left)], [self.running[run_id]])

    def seconds(self, work: Iterable[tuple[str, Mapping[str, float]]], running: Iterable[Running]) -> float | None:
        """Return how long the work of entries takes, less what runs have spent on it; None while unknown."""
        amounts: dict[tuple[str, str], float] = defaultdict(float)  # a thousand runs have few entries
        for entry, left in work:
            for phase, n in left.items():
                if n > 0:
                    amounts[entry, phase] += n
        parts = sum(n * self.rates.rate(entry, phase) for (entry, phase), n in amounts.items())
        seconds = parts - sum(self.clock() - one.since for one in running)
        return max(0.0, seconds) if math.isfinite(seconds) else None

    def is_open(self) -> bool:
        """Return whether the next looks may still make planned runs unnecessary."""
        finals = [run for run in self.runs.values() if run.kind == "entry"]
        return any(self.work[part_of(run)]["training"] > 0 for run in finals)

    def basis(self) -> str | None:
        """Return what the forecast is estimated from, in words, until an entry has trained; then None."""
        if self.rates.plan.looks and self.rates.units["all entries", "training"]:
            return "at most: seeds are added in rounds" if self.is_open() else None
        if self.rates.units["all entries", "training"] or not any(left["training"] > 0 for left in self.work.values()):
            return None
        return "estimated from the speed of the untouched base: no entry has trained long enough yet"


def measured_before(events: Iterable[Event], plan: PlanDocument, protocol: ProtocolConfig) -> Rates:
    """Return the rates of the sessions in `events`. Each has a clock of its own; runs of other plans are left out."""
    rates = Rates(plan, protocol)
    for event in chain([Start(done=[], steps={})], events):
        if event.kind == "start":
            clock = EventClock()
            session = Forecast(rates, event, clock)
        elif isinstance(event, RunEvent) and event.run in session.runs:
            clock.at = event.time
            session.take(event)
    return rates

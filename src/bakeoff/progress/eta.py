"""How long the rest of a bakeoff takes: amounts of work from the plan, multiplied with measured times.

A run passes through phases, which are the states that it reports. Training is counted in steps, generation in
documents, and every other phase in visits. If a run reads prompts for the loss and for decoding at once, this is a
phase counted in documents, too.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.throughput import Rates
from bakeoff.store.events import Metrics, Progress, RunEvent
from bakeoff.store.records import Run, Step


@dataclass
class Part:
    """A share of the work: a run, or all trials of an entry together. `left` is the amount of each phase."""

    entry: str
    kind: str
    left: dict[str, float] = field(default_factory=dict)


@dataclass
class Stand:
    """Where a run at work stands, since when nothing was heard of it, and the seconds of what is not counted yet."""

    phase: str
    since: float
    pending: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    step: float | None = None
    examples: float = 0
    read_seconds: float = 0.0  # of them, while it generated


class Forecast:
    """Takes every event and says how long a run, or all that is left, will take.

    `plan` is plan.json's content; `done` are runs that are not repeated, `steps` how many each trial took before,
    `rates` what earlier sessions have measured, and `again` trained runs whose outputs are made or scored again.
    `clock` gives seconds.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        plan: Mapping[str, Any],
        protocol: ProtocolConfig,
        done: Collection[str] = (),
        steps: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rates: Rates | None = None,
        again: Mapping[str, Step] | None = None,
    ):
        self.plan, self.protocol, self.clock = plan, protocol, clock
        self.rates = rates or Rates(runs, plan, protocol)
        self.at: dict[str, Stand] = {}
        self.heard: float | None = None
        self.parts: dict[str, Part] = {}  # by run; an entry's trials have one together
        self.of_entry: defaultdict[str, list[Part]] = defaultdict(list)
        groups: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in runs:
            groups[run.entry, run.kind].append(run)
        for run in runs:
            group = groups[run.entry, run.kind]
            if run.kind == "trial" and run is not group[0]:
                self.parts[run.id] = self.parts[group[0].id]
                continue
            part = Part(run.entry, run.kind, self.amounts_of(run, group, bool(groups.get((run.entry, "trial")))))
            self.parts[run.id] = part
            self.of_entry[run.entry].append(part)
            if run.id in done and run.kind != "trial":
                part.left.clear()
        for run_id, taken in (steps or {}).items():
            if run_id in self.parts:
                self.spend(run_id, "training", taken)
        for run_id, step in (again or {}).items():
            if run_id in self.parts:
                self.parts[run_id].left = self.again_amounts(step)
        for run in runs:
            if run.kind == "entry" and (run.id in done or run.id in (again or {})):
                self.drop_trials(run.entry)

    def amounts_of(self, run: Run, group: Sequence[Run], tuned: bool) -> dict[str, float]:
        """Return the work that the plan knows of a run, or of all trials of its entry.

        `group` are the entry's runs of this kind; `tuned` says whether the entry has trials.
        """
        if run.kind == "trial":
            return self.trials_amounts(run, len(group))
        tested = self.again_amounts("decode")
        if run.kind == "entry":
            trained: dict[str, float] = {}
            if not (tuned and run.seed == group[0].seed):  # that one adopts a trial
                trained |= self.training_amounts(run)
                if run is group[0]:
                    trained["storing trunk"] = self.stores_trunk(run)
            return {**tested, "saving": 1, "reloading": 1, **trained}
        return {} if run.entry.startswith(("lead-", "oracle")) else tested

    def again_amounts(self, step: Step) -> dict[str, float]:
        """Return the work of a trained run whose outputs are made again; scores alone take too little to count."""
        examples = self.rates.examples("test")
        if step == "score":
            return {}
        return {"loading": 1, "testing": 1, "reading": examples, "generating": examples}

    def stores_trunk(self, run: Run) -> bool:
        """Return whether the entry's first training stores a trunk's outputs, which the others read."""
        return any(self.plan["entries"][run.entry]["trunk_products"].values())

    def training_amounts(self, run: Run) -> dict[str, int]:
        """Return steps and validations of a training to its end."""
        steps = run.steps or 0
        per_epoch = max(1, steps // self.protocol.epochs)
        marks = {0, *range(per_epoch, steps + 1, per_epoch), *self.plan["rungs"]}
        if self.protocol.evaluate_every:
            marks |= set(range(0, steps + 1, self.protocol.evaluate_every))
        return {"training": steps, "validating": len(marks)}

    def trials_amounts(self, run: Run, trials: int) -> dict[str, float]:
        """Return what an entry's trials take together under halving, with the extension as far as one is likely.

        Of points without an order the best is one of the two on the edge with probability 2 / trials.
        """
        whole = self.training_amounts(run)
        share = self.plan["entries"][run.entry]["trial_steps"] / max(1, whole["training"])
        ranges = len(self.plan["entries"][run.entry]["search"])
        edge = 1 - (1 - min(1.0, 2 / trials)) ** ranges if trials > 1 else 0.0
        visits, living = 0, trials
        for _ in self.plan["rungs"] if trials > 1 else ():
            visits, living = visits + living, math.ceil(living / 2)
        visits += living
        amounts = {"loading": visits + edge, "saving": visits + edge, "storing trunk": self.stores_trunk(run)}
        return amounts | {phase: amount * (share + edge) for phase, amount in whole.items()}

    def add(self, run: Run) -> None:
        """Take in an extension: the entry's other trials have ended, and this one is all that is left of them."""
        other = next(part for part in self.of_entry[run.entry] if part.kind == "trial")
        other.left = {"loading": 1, "saving": 1, **self.training_amounts(run)}
        self.parts[run.id] = other

    def drop_trials(self, entry: str) -> None:
        """Count no more on trials of an entry: its choice is made."""
        for part in self.of_entry[entry]:
            if part.kind == "trial":
                part.left.clear()

    def begin(self) -> None:
        """Forget what was at work: a session begins."""
        self.at.clear()
        self.heard = None

    def take(self, event: RunEvent) -> None:
        """Count what the event tells to its entry's phases."""
        now, part = self.clock(), self.parts[event.run]
        if event.run not in self.at:
            idle = self.heard if self.heard is not None and not self.at else now
            self.at[event.run] = Stand("loading", idle)
            if part.kind == "entry":
                self.drop_trials(part.entry)
        stand = self.at[event.run]
        stand.pending[stand.phase] += now - stand.since
        stand.since = self.heard = now
        if event.kind == "progress" or event.kind == "metrics":
            self.count(event, stand)
        elif event.kind == "state" and event.state not in ("paused", "stopped"):
            if event.state != stand.phase:
                self.leave(event.run, stand.phase)
            if event.state == "training":  # a trunk is stored by now
                for other in self.of_entry[part.entry]:
                    other.left.pop("storing trunk", None)
            # The saved adapter is loaded again for the test, without the trunk and the checks of a set-up.
            reload = stand.phase == "saving" and event.state == "loading"
            stand.phase = "reloading" if reload else event.state
        else:
            self.leave(event.run, stand.phase)
            del self.at[event.run]
            if event.kind != "state" and part.kind != "trial":
                part.left.clear()

    def count(self, event: Progress | Metrics, stand: Stand) -> None:
        """Count steps and documents since the last that was heard of."""
        run_id = event.run
        if event.kind == "progress" and event.examples is not None:
            self.count_reading(event, stand)
            for phase in ("reading", "generating"):
                self.spend(run_id, phase, event.examples - stand.examples, measured=True)
            stand.examples = event.examples
        elif event.step is not None:
            if stand.step is None:
                stand.step = event.step - (stand.phase == "training")
                if self.parts[run_id].kind == "entry":  # it goes on from a checkpoint; of trials `steps` told
                    self.spend(run_id, "training", stand.step)
            self.spend(run_id, "training", event.step - stand.step, measured=True)
            stand.step = event.step

    def count_reading(self, event: Progress, stand: Stand) -> None:
        """Note the base's pace, and tell what was read while the run generated from what was written."""
        if event.read_tokens is None or event.read_seconds is None:
            return
        if self.parts[event.run].entry == "base":
            self.rates.pace = event.read_seconds / event.read_tokens
        if stand.phase == "generating":
            seconds = min(event.read_seconds - stand.read_seconds, stand.pending["generating"])
            stand.pending["generating"] -= seconds
            stand.pending["reading"] += seconds
            stand.read_seconds = event.read_seconds

    def leave(self, run_id: str, phase: str) -> None:
        """Count a visit to a phase that has no amounts of its own."""
        if phase not in ("training", "generating"):
            self.spend(run_id, phase, 1, measured=True)

    def spend(self, run_id: str, phase: str, amount: float, measured: bool = False) -> None:
        """Take an amount off what is left, and where its seconds were measured, note it with them."""
        part = self.parts[run_id]
        part.left[phase] = max(0, part.left.get(phase, 0) - amount)
        if measured:
            self.rates.add(part.entry, phase, amount, self.at[run_id].pending.pop(phase, 0))

    def left(self) -> float | None:
        """Return the seconds until everything is done; None as long as nothing tells."""
        seconds = 0.0
        for entry, parts in self.of_entry.items():
            amounts: Counter[str] = Counter()
            for part in parts:
                amounts.update(part.left)
            taken = self.of(entry, amounts)
            if taken is None:
                return None
            seconds += taken
        return max(0.0, seconds - sum(self.underway(run_id) for run_id in self.at))

    def basis(self) -> str | None:
        """Return in words what the forecast is estimated from until an entry has trained long enough; then None."""
        if self.rates.trained():
            return None
        to_train = any(part.left.get("training") for parts in self.of_entry.values() for part in parts)
        return (
            "estimated from the speed of the untouched base: no entry has trained long enough yet" if to_train else None
        )

    def left_of(self, run_id: str) -> float | None:
        """Return the seconds until a run that is at work ends, a trial until it pauses; None where nothing tells."""
        part, stand = self.parts[run_id], self.at.get(run_id)
        if stand is None:
            return None
        amounts: Mapping[str, float] = part.left
        if part.kind == "trial":
            taken, steps = stand.step or 0, self.plan["entries"][part.entry]["steps"]
            until = next((mark for mark in self.plan["rungs"] if mark > taken), steps)
            storing = part.left.get("storing trunk", 0)
            amounts = {"storing trunk": storing, "training": until - taken, "validating": 1, "saving": 1}
        seconds = self.of(part.entry, amounts)
        return None if seconds is None else max(0.0, seconds - self.underway(run_id))

    def of(self, entry: str, amounts: Mapping[str, float]) -> float | None:
        """Return the seconds of some amounts; None where a rate is missing."""
        rates = {phase: self.rates.rate(entry, phase) for phase, amount in amounts.items() if amount}
        if None in rates.values():
            return None
        return sum(amounts[phase] * rate for phase, rate in rates.items() if rate is not None)

    def underway(self, run_id: str) -> float:
        """Return the seconds that a run has been at its present phase, as far as its forecast holds them too."""
        part, stand = self.parts[run_id], self.at[run_id]
        rate, units = self.rates.rate(part.entry, stand.phase) or 0.0, part.left.get(stand.phase, 0)
        if stand.phase == "generating":
            rate += self.rates.rate(part.entry, "reading") or 0.0
        else:
            units = min(units, 1)
        seconds = stand.pending[stand.phase] + self.clock() - stand.since
        return min(seconds, units * rate)

"""The work that is left in a plan, and the seconds per unit of it, measured or probed.

Phases are the states that a run reports. Training with its validations is one phase, counted in multiplications;
generation is counted in documents, and every other phase in visits.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.store.plan_document import EntryForecast, PlanDocument, PlanForecast
from bakeoff.store.records import Run, Step

NEUTRAL_TOKENS = 1200  # of the neutral text that is read along with the test split
Units = defaultdict[str, float]  # by phase; below 0 where more was done than was planned


def planned_work(
    runs: Sequence[Run], plan: PlanDocument, seed: int, training: Mapping[str, float], to_do: Mapping[str, Step]
) -> defaultdict[tuple[str, str], Units]:
    """Return what is left, by entry and run, or "trial" for all its trials together.

    `training` has the units of each entry's training, `to_do` the first step to do of runs that are not new.
    """
    work: defaultdict[tuple[str, str], Units] = defaultdict(lambda: defaultdict(float))
    trials = Counter(run.entry for run in runs if run.kind == "trial")
    for entry, count in trials.items():
        facts = plan.entries[entry]
        # Of points without an order the best is one of the two on the edge with probability 2 / count.
        extension = 1 - (1 - min(1.0, 2 / count)) ** len(facts.search) if count > 1 else 0.0
        rungs = range(len(plan.rungs) + 1 if count > 1 else 1)
        visits = sum(math.ceil(count / 2**rung) for rung in rungs) + extension  # half of them stop at each rung
        trained = training[entry] * (facts.trial_steps / max(1, facts.steps) + extension)
        work[entry, "trial"].update(loading=visits, saving=visits, training=trained)
    for run in runs:
        step = to_do.get(run.id, "train")
        if run.kind != "trial" and step in ("train", "decode") and not run.entry.startswith(("lead-", "oracle")):
            work[run.entry, run.id].update(loading=1, testing=1, generating=plan.data.splits.test.examples)
        if run.kind == "entry" and step == "train":
            adopts = trials[run.entry] and run.seed == seed
            work[run.entry, run.id].update(saving=1, training=0 if adopts else training[run.entry])
        elif run.kind == "entry":  # the choice among its trials is made
            work[run.entry, "trial"].clear()
    return work


def validated_steps(steps: int, plan: PlanDocument, protocol: ProtocolConfig) -> set[int]:
    """Return the steps after which a training is validated."""
    epochs = range(0, steps + 1, max(1, steps // protocol.epochs))
    return {*epochs, *range(0, steps + 1, protocol.evaluate_every or steps + 1), *plan.rungs}


class Rates:
    """Seconds per unit: an entry's own, else those of its method, else of all entries, else of the base."""

    def __init__(self, runs: Sequence[Run], plan: PlanDocument, protocol: ProtocolConfig):
        entries, splits = {run.entry: run for run in runs if run.kind != "baseline"}, plan.data.splits
        self.groups = {name: (name, f"method {run.method}", "all entries") for name, run in entries.items()}
        prompt, target = splits.train.prompt_tokens_mean, splits.train.target_tokens_mean
        counts = {name: plan.entries[name].step_products for name in entries}
        counts["base"] = plan.model.forward_products
        example = {n: prompt * each.prompt + target * each.target + each.example for n, each in counts.items()}
        self.step = {name: protocol.batch_size * example[name] for name in entries}
        self.validation = splits.validation.examples * example["base"]
        steps = max((run.steps or 0 for run in runs), default=0)
        self.validated = validated_steps(steps, plan, protocol)
        self.training = {name: self.multiplications(name, steps) for name in entries}
        self.tokens = (prompt + target) / (example["base"] or math.nan)  # that the base reads per multiplication
        self.pace = math.nan  # seconds of a multiplication while the base reads
        self.units = defaultdict[tuple[str, str], float](float)  # by group and phase
        self.seconds = defaultdict[tuple[str, str], float](float)

    def multiplications(self, entry: str, steps: float, validated: bool = True) -> float:
        """Return those of the first steps of a training, with the validation after them or without."""
        return steps * self.step[entry] + self.validation * sum(step < steps + validated for step in self.validated)

    def add(self, entry: str, phase: str, units: float, seconds: float) -> None:
        """Note what units of a phase took."""
        for group in self.groups.get(entry, (entry,)):
            self.units[group, phase] += units
            self.seconds[group, phase] += seconds

    def rate(self, entry: str, phase: str) -> float:
        """Return the seconds of a unit; NaN while nothing is known about it."""
        for group in (*self.groups.get(entry, (entry,)), "base"):
            if units := self.units.get((group, phase)):
                return self.seconds[group, phase] / units
        return {"saving": 0.0, "training": self.pace}.get(phase, math.nan)


def expected_costs(
    plan: PlanDocument, protocol: ProtocolConfig, probes: Mapping[str, Mapping[str, Any]]
) -> PlanForecast:
    """Return seconds and peak bytes of each entry's runs, its trials among them, and the seconds of all entries.

    An extension of the trials is counted as far as one is likely; baselines, saving and the trunk cache are not.
    """
    entries: dict[str, EntryForecast] = {}
    work = planned_work(plan.runs, plan, protocol.seed, dict.fromkeys(plan.entries, 1.0), {})
    for name, found in probes.items():
        if found.get("error"):
            entries[name] = EntryForecast(error=found["error"], seconds=None, peak_bytes=None)
        else:
            rates = probed_rates(plan, found, validated_steps(plan.entries[name].steps, plan, protocol))
            left = [units for (entry, _), units in work.items() if entry == name]
            seconds = sum(units[phase] * rate for units in left for phase, rate in rates.items())
            entries[name] = EntryForecast(error=None, seconds=seconds, peak_bytes=found["peak_bytes"])
    known = [row.seconds for row in entries.values() if row.seconds is not None]
    too_large = [n for n, row in entries.items() if row.error or (row.peak_bytes or 0) > plan.memory_bytes]
    whole = sum(known) if len(known) == len(entries) else None
    return PlanForecast(entries=entries, seconds=whole, too_large=too_large)


def probed_rates(plan: PlanDocument, found: Mapping[str, Any], validated: set[int]) -> dict[str, float]:
    """Return the seconds of a unit of each phase, of a whole training, at the pace of the longest examples.

    A test also reads neutral text, and as many training examples as there are for validation. Outputs are assumed to
    have their full length; reading a prompt gives their first token.
    """
    counts, longest_output = plan.counts, plan.output_tokens
    assert counts is not None  # what is probed has tokens
    assert longest_output is not None
    trained = found["step_seconds"] / found["tokens"] * counts.train_tokens * plan.epochs
    read = found["evaluation_seconds"] / found["evaluated_tokens"]
    prefilled = 0.0 if found["reads_targets"] else found["prefill_seconds"] / found["prefill_tokens"]
    written = found["generation_seconds"] / found["generated_tokens"]
    tested = counts.test_tokens + counts.validation_tokens + NEUTRAL_TOKENS
    return {
        "loading": found["setup_seconds"] + found["start_seconds"],
        "training": trained + read * counts.validation_tokens * len(validated),
        "testing": found["setup_seconds"] + read * tested,  # the saved adapter is loaded for it
        "generating": prefilled * plan.data.splits.test.prompt_tokens_mean + written * (longest_output - 1),
    }

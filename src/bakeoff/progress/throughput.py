"""The work that is left in a plan, and the seconds per unit of it, measured or probed.

Phases are the states that a run reports. Training with its validations is one phase, counted in multiplications, as is
storing a trunk before it; generation is counted in documents, and every other phase in visits.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from bakeoff.analysis.round_budget import next_round
from bakeoff.config.sections import ProtocolConfig
from bakeoff.scoring.baselines import takes_model
from bakeoff.store.plan_document import EntryForecast, PlanDocument, PlanForecast, Span
from bakeoff.store.records import Run, Step

NEUTRAL_TOKENS = 1200  # of the neutral text that is read along with the test split
Probe = Mapping[str, Any]  # what `compute.run.profile` measures
Units = defaultdict[str, float]  # by phase; below 0 where more was done than was planned


def part_of(run: Run) -> tuple[str, str]:
    """Return under which key a run's work is counted: its entry, and its id or, for all trials together, "trial"."""
    return run.entry, "trial" if run.kind == "trial" else run.id


class Rates:
    """Seconds per unit: an entry's own, else those of its method, else of all entries, else of the base."""

    def __init__(self, plan: PlanDocument, protocol: ProtocolConfig):
        self.plan, self.seed = plan, protocol.seed
        train, validation = plan.data.splits.train, plan.data.splits.validation
        tokens = train.prompt_tokens_mean, train.target_tokens_mean
        read, base = train.examples + validation.examples, plan.model.forward_products.per_example(*tokens)
        self.groups = {name: (name, f"method {entry.method}", "all entries") for name, entry in plan.entries.items()}
        self.step = {n: protocol.batch_size * e.step_products.per_example(*tokens) for n, e in plan.entries.items()}
        self.trunk = {n: read * entry.trunk_products.per_example(*tokens) for n, entry in plan.entries.items()}
        self.validation, self.per_token = validation.examples * base, base / (sum(tokens) or math.nan)
        steps = max(entry.steps for entry in plan.entries.values())
        epochs = range(0, steps + 1, max(1, steps // protocol.epochs))
        self.validated = {*epochs, *range(0, steps + 1, protocol.evaluate_every or steps + 1), *plan.rungs}
        self.training = {name: self.multiplications(name, steps) for name in plan.entries}
        self.units = defaultdict[tuple[str, str], float](float)  # by group and phase
        self.seconds = defaultdict[tuple[str, str], float](float)

    def multiplications(self, entry: str, steps: float, validated: bool = True) -> float:
        """Return those of the first steps of a training, with or without the validation after them."""
        return steps * self.step[entry] + self.validation * sum(step < steps + validated for step in self.validated)

    def planned(self, to_do: Mapping[str, Step]) -> defaultdict[tuple[str, str], Units]:
        """Return the work that is left, by `part_of` runs; `to_do` has the first step of those that are not new."""
        work: defaultdict[tuple[str, str], Units] = defaultdict(lambda: defaultdict(float))
        for entry, facts in self.plan.entries.items():
            count, numbers = facts.trials, sum(isinstance(span, Span) for span in facts.search.values())
            # Of points without an order the best is one of the two on the edge with probability 2 / count.
            extension = 1 - (1 - min(1.0, 2 / count)) ** numbers if count > 1 else 0.0
            rungs = range(len(self.plan.rungs) + 1 if count > 1 else 1)
            visits = sum(math.ceil(count / 2**rung) for rung in rungs) + extension  # half of them stop at each rung
            trained = self.training[entry] * (facts.trial_steps / max(1, facts.steps) + extension)
            work[entry, "trial"].update(loading=visits, saving=visits, training=trained)
        trunks = {size: size for size in self.trunk.values()}  # of one size there is one, which is stored once
        for run in self.plan.runs:
            step, left = to_do.get(run.id, "train"), work[part_of(run)]
            if step == "score":
                left["scoring"] = 1
            elif step != "nothing" and (run.kind == "entry" or takes_model(run.method)):
                left.update(loading=1, testing=1, generating=self.plan.data.splits.test.examples)
            if run.kind == "entry" and step == "train":
                adopts = self.plan.entries[run.entry].trials and run.seed == self.seed
                left.update(saving=1, training=0 if adopts else self.training[run.entry])
            elif run.kind == "entry":  # the choice among its trials is made
                work[run.entry, "trial"].clear()
            if run.kind != "baseline" and step == "train":
                left["trunk"] += trunks.pop(self.trunk[run.entry], 0.0)
        return work

    def add(self, entry: str, phase: str, units: float, seconds: float) -> None:
        """Note how long units of a phase took."""
        for group in self.groups.get(entry, (entry,)):
            self.units[group, phase] += units
            self.seconds[group, phase] += seconds

    def rate(self, entry: str, phase: str) -> float:
        """Return the seconds per unit; NaN if nothing is known about it yet."""
        phase = "training" if phase == "trunk" else phase
        for group in (*self.groups.get(entry, (entry,)), "base"):
            if units := self.units.get((group, phase)):
                return self.seconds[group, phase] / units
        return 0.0 if phase in ("saving", "scoring") else math.nan


def expected_costs(plan: PlanDocument, protocol: ProtocolConfig, probes: Mapping[str, Probe]) -> PlanForecast:
    """Return seconds and peak bytes of each entry's runs with its trials, and the seconds of all entries.

    With seeds in rounds those of the first round alone, too. An extension of the trials counts in proportion to its
    probability. Baselines, saving and storing a trunk do not. Loading the base counts once for each way to store it,
    and among the seconds of all entries only.
    """
    forecast = costs_of(plan, protocol, probes)
    if not plan.looks:
        return forecast
    finals = next_round(plan, dict.fromkeys(plan.entries, plan.looks[0]))
    first = plan.model_copy(update={"runs": [*(run for run in plan.runs if run.kind != "entry"), *finals]})
    return forecast.model_copy(update={"first_round_seconds": costs_of(first, protocol, probes).seconds})


def costs_of(plan: PlanDocument, protocol: ProtocolConfig, probes: Mapping[str, Probe]) -> PlanForecast:
    """Return the costs of the runs that a plan has."""
    rates, entries, loads = Rates(plan, protocol), dict[str, EntryForecast](), dict[str, float]()
    work = rates.planned({})
    for name, probe in probes.items():
        if probe.get("error"):
            entries[name] = EntryForecast(error=probe["error"], seconds=None, peak_bytes=None)
        else:
            probed = probed_rates(plan, probe, rates.training[name], len(rates.validated))
            left = [units for (entry, _), units in work.items() if entry == name]
            seconds = sum(units[phase] * rate for units in left for phase, rate in probed.items())
            entries[name] = EntryForecast(error=None, seconds=seconds, peak_bytes=probe["peak_bytes"])
            loads.setdefault(plan.entries[name].quantize, probe["load_seconds"])
    known = [row.seconds for row in entries.values() if row.seconds is not None]
    too_large = [n for n, row in entries.items() if row.error or (row.peak_bytes or 0) > plan.memory_bytes]
    whole = sum(known) + sum(loads.values()) if len(known) == len(probes) else None
    return PlanForecast(entries=entries, seconds=whole, too_large=too_large)


def probed_rates(plan: PlanDocument, probe: Probe, training: float, validations: int) -> dict[str, float]:
    """Return the seconds per unit of each phase, at the pace of the longest examples; a training has `training` units.

    A test also loads the adapter, reads neutral text, and as many training examples as there are for validation.
    Outputs are assumed to have their full length; reading a prompt gives their first token.
    """
    counts, test = plan.counts, plan.data.splits.test
    assert counts is not None  # what is probed has tokens
    trained = probe["step_seconds"] / probe["tokens"] * counts.train_tokens * plan.epochs
    read = probe["evaluation_seconds"] / probe["evaluated_tokens"]
    prefilled = 0.0 if probe["reads_targets"] else probe["prefill_seconds"] / probe["prefill_tokens"]
    written = probe["generation_seconds"] / probe["generated_tokens"]
    return {
        "loading": probe["setup_seconds"] + probe["start_seconds"],
        "training": (trained + read * counts.validation_tokens * validations) / training,
        "testing": probe["setup_seconds"] + read * (counts.test_tokens + counts.validation_tokens + NEUTRAL_TOKENS),
        "generating": prefilled * test.prompt_tokens_mean + written * (counts.output_tokens / test.examples - 1),
    }

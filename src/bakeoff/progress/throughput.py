"""How long a step, a document or a visit to a phase takes, by the measurements so far."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.store.records import Run

# What a multiplication takes in a training step, beside one in the base's test: before any entry has trained.
TRAINING_PACE = 1.2
ENOUGH = {"training": 5, "validating": 2}  # before a rate counts: the first ones are slow

Group = tuple[str, str]


@dataclass
class Sums:
    """What was measured of a phase: its amount, the same times what a unit multiplies, and the seconds it took."""

    amount: float = 0.0
    weighted: float = 0.0
    seconds: float = 0.0


class Rates:
    """Seconds by entry and phase, with the amounts that took them. `plan` is plan.json's content.

    A phase's rate is the entry's own, else that of entries of the same method, else of all entries, else it follows
    from the pace at which the base read the test split. Other entries' rates count by what their steps multiply.
    """

    def __init__(self, runs: Sequence[Run], plan: Mapping[str, Any], protocol: ProtocolConfig):
        self.plan, self.protocol = plan, protocol
        self.methods = {run.entry: run.method for run in runs if run.kind != "baseline"}
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.amounts: defaultdict[tuple[str, str], float] = defaultdict(float)
        # By what an entry belongs to and phase: the amounts, what they multiply, and their seconds, all summed up.
        self.sums: defaultdict[tuple[Group, str], Sums] = defaultdict(Sums)
        self.pace: float | None = None  # seconds a token that the base reads

    def add(self, entry: str, phase: str, amount: float, seconds: float) -> None:
        """Note what an amount of a phase took."""
        self.amounts[entry, phase] += amount
        self.seconds[entry, phase] += seconds
        weighted = amount * self.weight(entry, phase) if amount else 0.0
        for group in self.groups(entry) if entry in self.methods else [("entry", entry)]:
            sums = self.sums[group, phase]
            sums.amount, sums.weighted, sums.seconds = (
                sums.amount + amount, sums.weighted + weighted, sums.seconds + seconds
            )  # fmt: skip

    def groups(self, entry: str) -> list[Group]:
        """Return what an entry belongs to, from the nearest on: itself, the entries of its method, all entries."""
        return [("entry", entry), ("method", self.methods.get(entry, "")), ("all", "")]

    def trained(self) -> bool:
        """Return whether an entry has trained long enough to tell of others; else the base's reading must."""
        return self.sums[("all", ""), "training"].amount >= ENOUGH["training"]

    def rate(self, entry: str, phase: str) -> float | None:
        """Return the seconds that one step, document or visit of an entry takes; None where nothing tells yet."""
        for group in self.groups(entry):
            sums = self.sums.get((group, phase))
            if sums and sums.amount >= ENOUGH.get(phase, 1):
                return self.weight(entry, phase) * sums.seconds / sums.weighted
        if phase in ("training", "validating", "storing trunk"):
            pace = self.product_seconds()
            factor = TRAINING_PACE if phase == "training" else 1.0
            return None if pace is None else factor * pace * self.weight(entry, phase)
        if phase == "saving":
            return 0.0
        known = "base", "loading" if phase == "reloading" else phase
        return self.seconds[known] / self.amounts[known] if self.amounts[known] else None

    def weight(self, entry: str, phase: str) -> float:
        """Return how many multiplications a unit of a phase takes; 1 where they do not tell what it costs."""
        if phase not in ("training", "validating", "storing trunk"):
            return 1.0
        facts = self.plan["entries"][entry]
        if phase == "training":
            return self.products("train", facts["step_products"]) * self.protocol.batch_size / self.examples("train")
        stored = self.products("validation", facts["trunk_products"])
        if phase == "validating":
            return self.products("validation", self.plan["model"]["forward_products"]) - stored
        return stored + self.products("train", facts["trunk_products"])

    def products(self, split: str, each: Mapping[str, int]) -> float:
        """Return the multiplications of a pass over a split, given those of its tokens and examples."""
        rows = self.plan["data"]["splits"][split]
        mean = rows["prompt_tokens_mean"] * each["prompt"] + rows["target_tokens_mean"] * each["target"]
        return self.examples(split) * (mean + each["example"])

    def product_seconds(self) -> float | None:
        """Return the seconds of a multiplication at the pace at which the base reads."""
        rows, products = self.plan["data"]["splits"]["test"], self.plan["model"]["forward_products"]
        tokens = self.examples("test") * (rows["prompt_tokens_mean"] + rows["target_tokens_mean"])
        return None if self.pace is None else self.pace * tokens / self.products("test", products)

    def examples(self, split: str) -> int:
        """Return how many examples a split has."""
        return int(self.plan["data"]["splits"][split]["examples"])

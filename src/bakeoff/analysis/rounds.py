"""Seeds in rounds: which entries get more seeds after a look at the results, and p values that stay valid.

All entries have a first number of seeds. After each look an entry goes on while it may still be told from the leader.
A pair's p value is over all looks that were planned (`boundary`), so it holds whatever decides when to stop: what is
decided here, a budget, an interrupt, or a person.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from scipy.special import nctdtrinc, ndtr, ndtri, stdtrit

from bakeoff.analysis.boundary import Boundary, boundary
from bakeoff.analysis.level import LEVEL
from bakeoff.analysis.multiplicity import holm, shaffer
from bakeoff.analysis.seeds import pooled, with_floor
from bakeoff.analysis.statistics import POWER, Estimate

HOPELESS = 0.1  # chance to be told apart by the last look, below which a pair gets no more seeds
State = Literal["different", "equal", "hopeless", "open"]
Estimates = Mapping[tuple[str, str], Estimate]
Name = tuple[str, str]


@dataclass(frozen=True)
class Glance:
    """A pair's difference at one look, with its interval over all looks: it holds in 95 % whenever one stops."""

    seeds: int
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Followed:
    """A pair up to its last common look: its difference there, with the floor of seed variance, and the largest |Z|."""

    gap: Estimate
    most: float
    glances: tuple[Glance, ...]

    @property
    def seeds(self) -> int:
        """How many seeds both entries had at the last common look."""
        return self.glances[-1].seeds


@dataclass(frozen=True)
class Look:
    """A look at results: after how many seeds, how many each entry has then, and estimates by (name, metric)."""

    seeds: int
    counts: Mapping[str, int]
    estimates: Estimates

    def has(self, name: str) -> bool:
        """Return whether a name is looked at with all seeds; a baseline has none and always is."""
        return self.counts.get(name, inf) >= self.seeds


class Rounds:
    """Takes one look after another and says how many seeds each entry wants next.

    `looks` are the planned numbers of seeds; `worth` is the difference that does not matter, or None.
    """

    def __init__(self, looks: Sequence[int], entries: Iterable[str], metric: str, worth: float | None = None):
        self.looks, self.metric, self.worth = tuple(looks), metric, worth
        self.bound = boundary(self.looks)
        self.active = list(entries)
        self.counts = dict.fromkeys(self.active, 0)
        self.names = [(a, b) for i, a in enumerate(self.active) for b in self.active[i + 1 :]]
        self.taken: list[Look] = []
        self.pairs: dict[Name, Followed] = {}
        self.states: dict[Name, State] = {}

    @property
    def wanted(self) -> dict[str, int]:
        """How many seeds the next look asks of the entries that go on; empty if there is none."""
        over = len(self.taken) == len(self.looks) or (self.taken and len(self.active) < 2)
        return {} if over else dict.fromkeys(self.active, self.looks[len(self.taken)])

    def seen_with(self, name: str) -> int:
        """Return how many of an entry's seeds the next look has to be given."""
        return self.wanted.get(name, self.counts[name])

    def state_of(self, a: str, b: str) -> State | None:
        """Return what is known about two entries, in either order; None for other names, or before the first look."""
        return self.states.get((a, b)) or self.states.get((b, a))

    @property
    def behind(self) -> set[str]:
        """The entries that are shown to be behind another."""
        told = {name: self.pairs[name].gap.value for name, state in self.states.items() if state == "different"}
        return {b if value > 0 else a for (a, b), value in told.items()}

    def ahead(self, a: str, b: str) -> Name:
        """Return two names, the one first that is shown to be ahead; else as they are."""
        for (first, second), state in self.states.items():
            if {first, second} == {a, b} and state == "different":
                return (first, second) if self.pairs[first, second].gap.value > 0 else (second, first)
        return a, b

    def take(self, estimates: Estimates) -> None:
        """Take a look. `estimates` are of all entries, each with its first `seen_with` seeds, and of baselines."""
        self.counts |= self.wanted
        look = Look(self.looks[len(self.taken)], dict(self.counts), estimates)
        self.taken.append(look)
        self.pairs = follow(self.pairs, self.names, look, self.metric, self.bound)
        decided = adjusted([self.pairs[name] for name in self.names], len(self.counts), self.bound)
        unclear = sum(p >= 1 - LEVEL for p in decided)
        self.states = {
            name: self.state(self.pairs[name], p, max(1, unclear)) for name, p in zip(self.names, decided, strict=True)
        }
        self.active = self.going_on(look)

    def state(self, pair: Followed, p: float, unclear: int) -> State:
        """Return what is known about a pair after a look; `unclear` is the number of pairs not shown to differ."""
        if p < 1 - LEVEL:
            return "different"
        low, high = pair.glances[-1].low, pair.glances[-1].high
        if self.worth is not None and low is not None and high is not None and max(-low, high) <= self.worth:
            return "equal"
        return "open" if chance(pair, self.bound, unclear) >= HOPELESS else "hopeless"

    def going_on(self, look: Look) -> list[str]:
        """Return the leader and those that may still be told from it; nobody if there is none of them."""
        leader = max(self.active, key=lambda name: look.estimates[name, self.metric].value)
        rivals = {
            name
            for pair in self.names
            if leader in pair and self.states[pair] == "open"
            for name in pair
            if set(pair) <= set(self.active)
        }
        return [name for name in self.active if name in rivals]


def follow(
    pairs: Mapping[Name, Followed], names: Sequence[Name], look: Look, metric: str, bound: Boundary
) -> dict[Name, Followed]:
    """Return the pairs after a look; one of which an entry has stopped stays as it was."""
    compared = dict.fromkeys(name for pair in names for name in pair)
    pool = pooled([spread for name in compared for spread in look.estimates[name, metric].spreads])
    weight = bound.weights[bound.looks.index(look.seeds)]
    level = float(2 * ndtr(bound.critical(1 - LEVEL) / weight) - 1)
    found = dict(pairs)
    for a, b in names:
        if look.has(a) and look.has(b):
            gap = look.estimates[a, metric] - look.estimates[b, metric]
            gap = replace(gap, spreads=with_floor(gap.spreads, pool))
            p, before = gap.p_value(), pairs.get((a, b))
            z = 0.0 if p is None else -float(ndtri(max(p, 1e-300) / 2))
            glance = Glance(look.seeds, gap.value, *(gap.interval(level) or (None, None)))
            most = max(weight * z, before.most if before else 0.0)
            found[a, b] = Followed(gap, most, (*(before.glances if before else ()), glance))
    return found


def adjusted(pairs: Sequence[Followed], entries: int, bound: Boundary) -> list[float]:
    """Return the p values of all pairs of so many entries over all planned looks, corrected for their number.

    With other pairs (entries and baselines) `entries` is 0.
    """
    p = [bound.p_value(pair.most) for pair in pairs]
    return shaffer(p, entries) if entries else holm(p)


def chance(pair: Followed, bound: Boundary, unclear: int) -> float:
    """Return the chance that a pair is told apart by the last look, if its true difference is about what it shows."""
    variance, _, critical = at_share(pair, bound, unclear, pair.seeds / bound.looks[-1])
    distance, left = abs(pair.gap.value) - critical * variance**0.5, pair.gap.variance - variance
    if pair.gap.is_constant:
        return 0.0
    return float(ndtr(distance / left**0.5)) if left > 0 else float(distance > 0)


def detectable(pair: Followed, bound: Boundary, comparisons: int, limit: bool = False) -> float | None:
    """Return the true difference that is found with 80 % power by the last look; with `limit`, by any number of seeds.

    None if there is no spread.
    """
    share = 0.0 if limit else pair.seeds / bound.looks[-1]
    variance, freedom, critical = at_share(pair, bound, comparisons, share)
    if pair.gap.clusters < 2 or pair.gap.is_constant or variance <= 0:
        return None
    return float(nctdtrinc(freedom, 1 - POWER, critical) * variance**0.5)


def at_share(pair: Followed, bound: Boundary, comparisons: int, share: float) -> tuple[float, float, float]:
    """Return a pair's variance, degrees of freedom and critical t once its present seeds are this share of all.

    What documents and seeds have together is in the variance over documents, and falls with more seeds, too.
    """
    gap = pair.gap
    together = sum(spread.within for spread in gap.spreads)
    documents = max(0.0, gap.document_variance - together * (1 - share))
    variance = min(documents + (gap.variance - gap.document_variance) * share, gap.variance)
    freedom = min(gap.freedom / share, 1e6) if share else float(gap.clusters - 1)
    critical = stdtrit(freedom, ndtr(bound.critical((1 - LEVEL) / comparisons)))
    return variance, freedom, float(critical)

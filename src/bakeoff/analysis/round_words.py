"""What a verdict says of seeds in rounds: how many each entry got, why no more, and what the numbers still promise."""

from collections.abc import Sequence
from statistics import median_high

from bakeoff.analysis.caveats import listed
from bakeoff.analysis.rounds import Rounds, detectable
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.store.results_document import LookRow, Pair, RoundsFacts, Verdict


def rounds_facts(rounds: Rounds, best: str | None, budget: float | None) -> RoundsFacts:
    """Return the facts of rounds for results.json, with the looks at the best entry's pairs.

    `budget` has ended them, if it is not None.
    """
    limits = [detectable(pair, rounds.bound, len(rounds.names), limit=True) for pair in rounds.pairs.values()]
    known = [limit for limit in limits if limit is not None]
    rows = []
    for (a, b), pair in rounds.pairs.items():
        if best in (a, b):
            sign, second = (1, b) if a == best else (-1, a)
            for glance in pair.glances:
                ends = (glance.low, glance.high) if sign == 1 else (glance.high, glance.low)
                low, high = (None if end is None else sign * end for end in ends)
                rows.append(
                    LookRow(first=best or "", second=second, seeds=glance.seeds, difference=sign * glance.difference,
                            low=low, high=high)
                )  # fmt: skip
    return RoundsFacts(
        looks=list(rounds.looks), taken=len(rounds.taken), seeds=dict(rounds.counts), waiting=rounds.wanted,
        limit=median_high(known) if known else None, rows=rows,
        budget=budget,
    )  # fmt: skip


def time_of(seconds: float) -> str:
    """Return a budget in words."""
    return f"{seconds:,.4g} s" if seconds < 600 else f"{seconds / 3600:,.4g} h"


def why_tied(pairs: Sequence[Pair], facts: RoundsFacts, by: Yardstick) -> list[str]:
    """Return sentences on why the pairs of tied entries got no more seeds."""
    parts = []
    equal = [pair.second for pair in pairs if pair.state == "equal"]
    if equal and by.worth is not None:
        first = pairs[0].first
        parts.append(f"{listed([first, *equal])} are practically equal: within {by.points(by.worth)} (protocol.worth).")
    hopeless = [pair.second for pair in pairs if pair.state == "hopeless"]
    if hopeless:
        parts.append(
            f"By {facts.looks[-1]} seeds each, {listed(hopeless)} would have been told from {pairs[0].first} with a "
            "chance below 10 %."
        )
    undecided = [pair.second for pair in pairs if pair.state == "open"]
    if undecided and not facts.waiting:
        parts.append(f"{listed(undecided)} could not be told from {pairs[0].first} by the last look at both.")
    return parts


def how_it_went(verdict: Verdict, facts: RoundsFacts, by: Yardstick) -> list[str]:
    """Return the closing sentences: seeds of each entry, what is open, and what intervals and claims promise."""
    counts = ", ".join(f"{name} {count}" for name, count in facts.seeds.items())
    most = facts.looks[-1] * len(facts.seeds)
    runs = f"{sum(facts.seeds.values())} of at most {most} runs"
    if facts.waiting:
        names, seeds = list(facts.waiting), max(facts.waiting.values())
        parts = [
            f"Seeds are added in rounds: {counts}; the next look is at {seeds} seeds of {listed(names)}."
            if facts.budget is None
            else f"Seeds were added in rounds: {counts}; protocol.budget ({time_of(facts.budget)}) has no room for the "
            f"next one, to {seeds} seeds of {listed(names)}."
        ]
    else:
        parts = [f"Seeds were added in rounds, where more could still decide something: {counts}; {runs}."]
    if verdict.detectable_gap is not None:
        parts.append(f"With {facts.looks[-1]} seeds each {by.detected(verdict.detectable_gap)}.")
    if facts.limit is not None:
        limit = by.points(facts.limit)
        parts.append(f"More seeds cannot find gaps below {limit} here; more test {by.unit} can.")
    count, pairs = f"{verdict.documents:,} test {by.unit}", len(verdict.pairs)
    claims = f"and so do all claims of a difference together (Shaffer's correction for {pairs} pairs), "
    parts.append(
        f"Intervals are 95 % confidence intervals over {count} and seeds. Each holds in 95 of 100 such bakeoffs, "
        f"{claims if pairs > 1 else ''}however often the results were looked at."
    )
    return parts

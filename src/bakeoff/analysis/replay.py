"""The looks that records hold, taken again: which entries get more seeds is a function of the records alone."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import takewhile

from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.rounds import Rounds
from bakeoff.analysis.statistics import Resamples, Scores, estimate
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run, RunResult

Results = Mapping[str, RunResult | None]


def leading(group: Sequence[Run], results: Results) -> list[Run]:
    """Return the runs of an entry up to the first that is not done: a look is at the first seeds, not at any."""
    return list(takewhile(lambda run: (result := results[run.id]) is not None and result.status == "done", group))


def in_rounds(plan: PlanDocument, results: Results) -> dict[str, list[Run]]:
    """Return the final runs of each entry that takes part in the looks; one whose run has failed does not."""
    groups: dict[str, list[Run]] = {}
    for run in plan.runs:
        if run.kind == "entry":
            groups.setdefault(run.entry, []).append(run)
    return {n: g for n, g in groups.items() if not any((r := results[run.id]) and r.status == "failed" for run in g)}


def replay(
    looks: Sequence[int], entries: Sequence[str], scores: Mapping[str, Mapping[str, Scores]],
    clusters: Sequence[Hashable], metric: str, worth: float | None,
) -> Rounds:  # fmt: skip
    """Return the rounds after all looks for which the entries have enough seeds.

    `scores` are of each entry's leading runs, and of baselines, by name and metric.
    """
    rounds, resamples = Rounds(looks, entries, metric, worth), Resamples(clusters)
    while rounds.wanted and all(seeds_of(scores[n], metric) >= seeds for n, seeds in rounds.wanted.items()):
        rounds.take(estimate(seen(rounds, scores), resamples))
    return rounds


def joined(
    looks: Sequence[int], counts: Mapping[str, int], scores: Mapping[str, Mapping[str, Scores]],
    clusters: Sequence[Hashable], metric: str,
) -> Rounds:  # fmt: skip
    """Return the rounds of entries of several bakeoffs with the same looks, which have stopped at so many seeds each.

    A p value over all looks holds whatever has stopped an entry, so also where each bakeoff has decided for itself.
    """
    rounds, resamples = Rounds(looks, counts, metric), Resamples(clusters)
    for seeds in looks:
        rounds.active = [name for name, count in counts.items() if count >= seeds]
        if len(rounds.active) > 1:
            rounds.take(estimate(seen(rounds, scores), resamples))
    rounds.active, rounds.counts = [], dict(counts)
    return rounds


def seen(rounds: Rounds, scores: Mapping[str, Mapping[str, Scores]]) -> dict[tuple[str, str], Scores]:
    """Return what the next look sees: of each entry the first seeds that it has then, and the baselines."""
    return {
        (name, of): first(by_metric[of], rounds.seen_with(name)) if name in rounds.counts else by_metric[of]
        for name, by_metric in scores.items()
        for of in (rounds.metric, LOSS)
        if of in by_metric
    }


def seeds_of(scores: Mapping[str, Scores], metric: str) -> int:
    """Return how many seeds have scores."""
    return len(scores[metric].numerators) if metric in scores else 0


def first(scores: Scores, seeds: int) -> Scores:
    """Return the scores of the first seeds."""
    return Scores(scores.numerators[:seeds], scores.denominators, scores.seeded, scores.bounds)

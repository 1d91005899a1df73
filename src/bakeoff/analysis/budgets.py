"""What a smaller tuning budget would have found: each entry's expected validation loss by its number of trials.

If `k` of an entry's trials had been drawn by chance, the best of them would have had this loss on average (Dodge et al.
2019, arXiv:1909.03004, here without replacement). Where the order of two entries changes, it depends on the budget.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from bakeoff.analysis.columns import counted
from bakeoff.store.results_document import ResultsDocument, ResultsRow

SHOWN = 3  # changes of order that are told


def expected_losses(row: ResultsRow) -> list[float]:
    """Return the expected lowest validation loss of 1, 2, ... of an entry's planned trials; empty before all ended.

    A trial that was stopped early has its lowest loss until then, one that failed the highest of the others.
    """
    trials = [t for t in row.tuning.trials if t.trial is not None and t.trial <= row.trials] if row.tuning else []
    known = [t.validation_loss for t in trials if t.status in ("done", "stopped") and t.validation_loss is not None]
    failed = sum(t.status == "failed" for t in trials)
    if not known or len(known) + failed < max(2, row.trials):
        return []
    return lowest_of([*known, *[max(known)] * failed])


def lowest_of(losses: Sequence[float]) -> list[float]:
    """Return, for each k from 1 on, the mean of the lowest of k different losses, over all choices of k."""
    ordered, count = sorted(losses), len(losses)
    return [
        sum(loss * math.comb(count - place, k - 1) for place, loss in enumerate(ordered, 1)) / math.comb(count, k)
        for k in range(1, count + 1)
    ]


def curves_of(results: ResultsDocument) -> dict[str, list[float]]:
    """Return the expected losses of every tuned entry, those that are lowest with all trials first."""
    found = {name: losses for name, row in results.entries.items() if (losses := expected_losses(row))}
    return dict(sorted(found.items(), key=lambda pair: pair[1][-1]))


def changes(curves: Mapping[str, Sequence[float]]) -> list[tuple[str, str, int]]:
    """Return pairs of entries whose order changes: the better with all trials, the other, and the last k before that.

    Those whose order changes last come first, of these the best pairs.
    """
    found = []
    for first, second in combinations(curves, 2):
        pairs = list(zip(curves[first], curves[second], strict=False))
        behind = [k for k, (a, b) in enumerate(pairs, 1) if a > b]
        if behind and behind[-1] < len(pairs):
            found.append((first, second, behind[-1]))
    return sorted(found, key=lambda change: -change[2])


def budget_note(curves: Mapping[str, Sequence[float]]) -> str:
    """Return in words whether the order of entries depends on the tuning budget."""
    pairs, found = math.comb(len(curves), 2), changes(curves)
    if not found:
        return "No smaller number of trials would have put the entries in another order."
    told = [
        f"{second} is ahead of {first} with {counted(k, 'trial')} and behind it with {k + 1} "
        f"({curves[second][k - 1]:.3f} and {curves[first][k - 1]:.3f}, then {curves[second][k]:.3f} and "
        f"{curves[first][k]:.3f})"
        for first, second, k in found[:SHOWN]
    ]
    more = f"; and {counted(len(found) - SHOWN, 'pair')} more" if len(found) > SHOWN else ""
    verb = "changes" if len(found) == 1 else "change"
    return f"{len(found):,} of {counted(pairs, 'pair')} {verb} order: {'; '.join(told)}{more}."

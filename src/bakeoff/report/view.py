"""Which entries of a large bakeoff the figures and examples show: as many as a reader can distinguish."""

from bakeoff.report.charts.quality import costs, pareto, point, qualities
from bakeoff.store.results_document import ResultsDocument

MOST = 24  # entries in figures and examples; the table has all


def in_view(results: ResultsDocument) -> ResultsDocument:
    """Return the results with at most MOST entries, and the pairs of these, for figures and examples.

    First come the best entry and those recommended, then those that no other beats on both the score that ranks and a
    cost, then those with the highest score. If some are left out, `of_entries` is the number of all.
    """
    entries, verdict = results.entries, results.verdict
    if len(entries) <= MOST:
        return results
    score = qualities(results)[0]
    first = [verdict.best, *verdict.recommendations.values()]
    for cost in costs(results):
        points = [p for name, row in entries.items() if (p := point(name, row, score, cost))]
        first += [p["entry"] for p in pareto(points, score.lower)]
    ranked = [pair.second for pair in verdict.pairs if pair.first == verdict.best]
    wanted = dict.fromkeys(name for name in (*first, *ranked, *entries) if name in entries)
    chosen = set(list(wanted)[:MOST])
    shown = {
        "pairs": [pair for pair in verdict.pairs if {pair.first, pair.second} <= chosen],
        "baseline_pairs": [pair for pair in verdict.baseline_pairs if pair.first in chosen],
    }
    return results.model_copy(
        update={
            "entries": {name: row for name, row in entries.items() if name in chosen},
            "of_entries": len(entries),
            "verdict": verdict.model_copy(update=shown),
        }
    )


def view_note(view: ResultsDocument, heading: str) -> str:
    """Return a sentence on the entries that are left out of figures and examples; empty if there are none."""
    if view.of_entries is None:
        return ""
    return (
        f"Figures, differences and outputs show {len(view.entries)} of {view.of_entries:,} entries: the best, "
        f"those recommended, those that no other beats on both {heading} and a cost, then those of the highest "
        f"{heading}. The table has all."
    )

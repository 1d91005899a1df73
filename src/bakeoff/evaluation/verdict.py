"""The verdict: one or two plain sentences that the scores support, and nothing more."""

from typing import Any

from bakeoff.evaluation.statistics import Array, Resamples, interval

METRIC = "test/rougeL"


def make_verdict(rows: dict[str, dict[str, Any]], scores: dict[str, Array], weights: Resamples) -> dict[str, Any]:
    """Return headline, text, metric, best, tied_with_best and differences from per-example ROUGE-L F by entry.

    Entries are compared with the best by the paired bootstrap over documents: tied means that the 95 % interval of
    the difference holds zero. "Better" is never said of a tie.
    """
    entries = [n for n, row in rows.items() if row["kind"] == "entry" and row["status"] == "done" and n in scores]
    if not entries:
        headline = "No entry has finished, so there is nothing to compare yet."
        return {"headline": headline, "text": headline, "metric": METRIC, "best": None, "tied_with_best": [],
                "differences": {}}  # fmt: skip
    best = max(entries, key=lambda n: float(scores[n].mean()))
    others = {n: difference(scores[best], scores[n], weights) for n in scores if n != best}
    tied = [n for n in entries if n != best and others[n]["low"] <= 0 <= others[n]["high"]]
    behind = [n for n in entries if n != best and n not in tied]
    behind.sort(key=lambda n: others[n]["mean"])
    headline = opening(best, tied, {n: float(f.mean()) for n, f in scores.items()})
    parts = [f"{best} leads {n} by {points(others[n])}." for n in tied + behind]
    parts += cheaper(best, tied, rows)
    parts += beaten_by_baselines(entries, scores, weights)
    if len(entries) > 1:
        single = all(rows[n]["seeds"] == 1 for n in entries)
        parts.append(
            f"In brackets: 95 % intervals over test documents{' (one seed: not over seeds)' if single else ''}."
        )
    missing = [n for n, row in rows.items() if row["status"] != "done"]
    if missing:
        parts.append(f"Not in this comparison: {', '.join(missing)} ({', '.join(rows[n]['status'] for n in missing)}).")
    return {
        "headline": headline,
        "text": " ".join([headline, *parts]),
        "metric": METRIC,
        "best": best,
        "tied_with_best": tied,
        "differences": others,
    }


def difference(first: Array, second: Array, weights: Resamples) -> dict[str, float]:
    """Return the mean paired difference first - second and its 95 % interval over documents."""
    low, high = interval(weights @ (first - second) / len(first))
    return {"mean": float((first - second).mean()), "low": low, "high": high}


def points(gap: dict[str, float]) -> str:
    """Return a difference as ROUGE points (hundredths) with its interval."""
    return f"{100 * gap['mean']:.1f} points ({100 * gap['low']:.1f} to {100 * gap['high']:.1f})"


def opening(best: str, tied: list[str], means: dict[str, float]) -> str:
    """Return the first sentence: who leads, alone or in a tie."""
    if not tied:
        return f"{best} is best: ROUGE-L {100 * means[best]:.1f}."
    scores = listed([f"{100 * means[n]:.1f}" for n in (best, *tied)])
    return f"{listed([best, *tied])} are tied on ROUGE-L ({scores})."


def listed(names: list[str]) -> str:
    """Return names as one reads them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def cheaper(best: str, tied: list[str], rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence on adapter size where a tie leaves it to decide."""
    sizes = {n: rows[n]["costs"].get("adapter_bytes") for n in [best, *tied]}
    known = {n: size for n, size in sizes.items() if size}
    if not tied or len(known) < 2:
        return []
    small, large = min(known, key=lambda n: known[n]), max(known, key=lambda n: known[n])
    return [f"Of these {small} stores {known[large] / known[small]:.1f}x less than {large}."]


def beaten_by_baselines(entries: list[str], scores: dict[str, Array], weights: Resamples) -> list[str]:
    """Return a sentence for each entry that does not clearly beat lead-1 (protocol rule 6)."""
    if "lead-1" not in scores:
        return []
    weak = [n for n in entries if difference(scores[n], scores["lead-1"], weights)["low"] <= 0]
    return [f"Not shown to beat the document's first sentence (lead-1): {listed(weak)}."] if weak else []

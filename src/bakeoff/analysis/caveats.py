"""What the numbers cannot tell, in sentences: equal scores, scores that rest on few documents, rare failures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bakeoff.analysis.level import LEVEL
from bakeoff.store.results_document import ResultsRow

if TYPE_CHECKING:  # a finished table is shown without the libraries that computed it
    from bakeoff.analysis.statistics import Estimate

FEW = 30  # documents of equal weight, below which intervals of scores are too narrow (docs/verdict.md)
IN_HEADLINE = 6  # names in a sentence, before it is made shorter


def equal_scores(scores: Mapping[str, "Estimate"], heading: str) -> list[str]:
    """Return a sentence that names the entries for which all documents score the same."""
    names = [name for name, score in scores.items() if score.clusters > 1 and score.is_constant]
    if not names:
        return []
    count, known = scores[names[0]].clusters, scores[names[0]].interval() is not None
    left = "the interval is what so many equal documents leave possible" if known else "there is no interval"
    return [
        f"All {count:,} test documents have the same {heading} with {listed(names)}: nothing varies that could be "
        f"measured, and {left}."
    ]


def few_documents(scores: Mapping[str, "Estimate"], unit: str) -> list[str]:
    """Return a sentence that names the entries whose score rests on few documents."""
    found = {n: s.effective for n, s in scores.items() if s.clusters > 1 and s.effective < FEW and not s.is_constant}
    if not found:
        return []
    return [
        f"The scores of {listed(list(found))} rest on few {unit} (they tell as much as {min(found.values()):.0f} that "
        f"all weigh the same): these scores' intervals may be too narrow. Differences between entries are not affected."
    ]


def rare_failures(rows: Mapping[str, ResultsRow]) -> list[str]:
    """Return lines on failures: which trainings diverged, and how frequent one can be that was not seen."""
    diverged = [f"{n} in {row.diverged} of {row.trainings} trainings" for n, row in rows.items() if row.diverged]
    lines = [f"diverged: {listed(diverged)}"] if diverged else []
    seeds = min((row.seeds for row in rows.values() if row.status == "done"), default=0)
    if seeds > 1:
        unseen = unseen_share(seeds)
        lines.append(
            f"rare failures: with {seeds} final runs per entry, one that strikes up to {unseen:.0%} of all runs can go "
            "unseen"
        )
    return lines


def unseen_share(runs: int) -> float:
    """Return the largest chance of a failure per run with which none of so many runs fails in 5 of 100 cases."""
    return float(1 - (1 - LEVEL) ** (1 / runs))


def told_apart(tied: Sequence[str], maybe: Sequence[str], entries: Sequence[str]) -> list[str]:
    """Return the sentence on where the best of some entries is, if it says more than the pairs do.

    It has the names among which it is; of many, those that it is not, if these are fewer.
    """
    others = [name for name in entries if name not in maybe]
    if not tied or not others:
        return []
    negated = len(others) < len(maybe) > IN_HEADLINE
    named = others if negated else list(maybe)
    which = f"{'not ' if negated else ''}{'among ' if len(named) > 1 else ''}{listed(named)}"
    return [f"The best is {which} (95 % confidence for this alone)."]


def listed(names: Sequence[str]) -> str:
    """Return names as a phrase: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

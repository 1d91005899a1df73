"""What a preference chooses: the cheapest entry that is shown to be nearly as good as the best."""

from collections.abc import Mapping, Sequence

from bakeoff.analysis.level import LEVEL
from bakeoff.store.results_document import Pair, ResultsRow

COSTS = {"memory": "peak_bytes", "size": "adapter_bytes", "time": "train_seconds"}
PREFERENCES = ("quality", *COSTS)
Rows = Mapping[str, ResultsRow]


def near_best(best: str, pairs: Sequence[Pair], worth: float | None) -> list[str]:
    """Return the best entry and all that are shown to be within `worth` of it.

    An entry is, if the one-sided 95 % upper bound of its distance from the best is not above `worth`.
    """
    mine = [pair for pair in pairs if pair.first == best]
    near = [p.second for p in mine if worth is not None and p.at_most is not None and p.at_most <= worth]
    return [best, *near]


def maybe_best(entries: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Return the entries among which the best one is, with 95 % confidence (Hsu's comparison with the best).

    An entry is left out if another beats it in a one-sided test at 5 % divided by the number of the others. In each
    pair the higher score is first.
    """
    level = (1 - LEVEL) / max(1, len(entries) - 1)
    beaten = {pair.second for pair in pairs if pair.p is not None and pair.p / 2 < level and pair.difference > 0}
    return [name for name in entries if name not in beaten]


def recommendations(tied: Sequence[str], near: Sequence[str], rows: Rows) -> dict[str, str | None]:
    """Return an entry for each preference; None if what it asks for was not measured for all of them.

    Quality asks the entries `tied` with the best for the lowest validation loss, without the run that adopts a trial:
    its loss was chosen for being low. Memory, size and time ask those `near` the best for the lowest peak, the smallest
    adapter, the shortest training.
    """
    losses = {name: rows[name].fresh_loss for name in tied}
    costs = {word: {name: rows[name].costs.get(cost) for name in near} for word, cost in COSTS.items()}
    return {word: lowest(values) for word, values in {"quality": losses, **costs}.items()}


def lowest(values: Mapping[str, float | None]) -> str | None:
    """Return the name with the lowest value; None if a value is unknown, or there are no names."""
    known = {name: value for name, value in values.items() if value is not None}
    return min(known, key=lambda name: known[name]) if known and len(known) == len(values) else None

"""What is said beside the table: where a row stands, why it has no results, failed checks, and edges of searches."""

from collections.abc import Mapping

from bakeoff.analysis.caveats import rare_failures
from bakeoff.errors import listed
from bakeoff.store.results_document import Price, ResultsDocument, ResultsRow

NOT_CONVERGED = "at the end the loss was still falling at more than half its average rate, so longer training may help"
BESIDE = "other runs had the same device at the same time as those of"
NOT_BETTER = "training never improved on the start; try another learning_rate"


def standing(name: str, results: ResultsDocument) -> str:
    """Return "best", "first of a tie", "tied with the best" or nothing: the verdict in a word."""
    verdict = results.verdict
    if name == verdict.best:
        return "first of a tie" if verdict.tied_with_best else "best"
    return "tied with the best" if name in verdict.tied_with_best else ""


def failure(row: ResultsRow) -> str | None:
    """Return why a row has no results, or None if it has results."""
    if row.status == "done":
        return None
    return f"{row.status}: {row.error}" if row.error else str(row.status)


def failures(results: ResultsDocument) -> list[str]:
    """Return one line for each row without results, and one for each check that a row failed."""
    rows = results.rows
    lines = [f"{name} {reason}" for name, row in rows.items() if (reason := failure(row))]
    return lines + [f"{name}: {note}" for name, row in rows.items() for note in failed_checks(row)]


def failed_checks(row: ResultsRow) -> list[str]:
    """Return one line for each check that a row's runs failed; why a run failed is shown elsewhere."""
    if row.status == "failed":
        return []
    return [f"check {name} failed: {note}" for name, note in row.check_notes.items()]


def edge_note(name: str, row: ResultsRow) -> str | None:
    """Return in words that an entry's best trial was on the edge of what was tried, or None if it was not."""
    tuning = row.tuning
    if not tuning or not tuning.edge:
        return None
    sides = " and ".join(f"{field} was the {side}est" for field, side in tuning.edge.items())
    after = {
        "better": "one step further was better and was chosen, so the best value may be even further",
        "worse": "one step further was worse",
        "failed": "one step further failed",
        "no room": "its range ends there",
    }.get(tuning.extended or "", "one step further has not run")
    tried = row.trials
    return f"{name}: the best trial was at the edge of the search: {sides} of the {tried} tried; {after}"


def remarks(results: ResultsDocument) -> list[str]:
    """Return lines on entries on the edge of their search, on those not converged or not better, and on failures."""
    entries = results.entries
    lines = [note for name, row in entries.items() if (note := edge_note(name, row))]
    early = [name for name, row in entries.items() if row.converged is False]
    if early:
        lines.append(f"not converged: {listed(early)}: {NOT_CONVERGED}")
    never = [name for name, row in entries.items() if row.improved is False]
    if never:
        lines.append(f"not better: {listed(never)}: {NOT_BETTER}")
    return [*lines, *beside_others(entries), *without_price(results.price), *rare_failures(entries)]


def beside_others(entries: Mapping[str, ResultsRow]) -> list[str]:
    """Return lines on entries whose runs shared a device: whether their seconds are those without the others."""
    shared = [name for name, row in entries.items() if row.beside]
    alone = [name for name in shared if entries[name].timed_alone]
    rest = [name for name in shared if name not in alone]
    paced = [f"{BESIDE} {listed(alone)}; train s, tuning s and tokens/s are at the pace without them"]
    other = [f"{BESIDE} {listed(rest)}; train s, tuning s and tokens/s are not comparable. Try: bakeoff run"]
    return paced * bool(alone) + other * bool(rest)


def without_price(price: Price | None) -> list[str]:
    """Return a line if a price is given, but not for the device of the runs."""
    if price is None or price.hour is not None:
        return []
    key = "price.gpu_hour" if price.device == "GPU" else "price.cpu_hour"
    return [f"no costs in money: the runs were on a {price.device}, for which {key} is not set"]

"""The pairwise differences behind the verdict, as text, and the recommendation under a stated preference."""

from typing import Any

from bakeoff.analysis.columns import size
from bakeoff.analysis.preferences import COSTS, PREFERENCES
from bakeoff.errors import SetupError
from bakeoff.store.results_document import Difference, ResultsDocument, Verdict

NOT_KNOWN = "not known"
WORDS = {
    "quality": ("lowest ", lambda value: f"validation loss, {value:.3f}"),
    "memory": ("lowest ", lambda value: f"peak memory, {size(value)}"),
    "size": ("smallest ", lambda value: f"adapter, {size(value)}"),
    "time": ("shortest ", lambda value: f"training, {value:,.1f} s"),
}


def difference_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Return one row per pair, baselines last: names, and the result on the score that ranks and on loss."""
    rows = []
    for pair in [*verdict.pairs, *verdict.baseline_pairs]:
        cells = [*cell(pair, *((100, 1) if verdict.bounded else (1, 3))), *cell(pair.loss, 1, 3)]
        rows.append({"name": f"{pair.first} \N{MINUS SIGN} {pair.second}", "cells": cells})
    return rows


def cell(pair: Difference | None, scale: float, digits: int) -> list[dict[str, Any]]:
    """Return the cells of one metric's difference: value with interval, adjusted p value, conclusion."""
    if pair is None:
        return [{"text": "\N{EN DASH}", "interval": "", "value": ""}] * 3
    value = scale * pair.difference
    low, high = (None if end is None else scale * end for end in (pair.low, pair.high))
    span = NOT_KNOWN if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
    p = pair.p_adjusted
    shown = NOT_KNOWN if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
    said = "different" if pair.different else "not shown to differ"
    texts = [(f"{value:.{digits}f}", span, value), (shown, "", "" if p is None else p), (said, "", said)]
    return [{"text": text, "interval": interval, "value": raw} for text, interval, raw in texts]


def recommendation(results: ResultsDocument, preference: str) -> str:
    """Return a sentence with the entry that a preference chooses: see `recommendations`."""
    verdict = results.verdict
    if verdict.best is None:
        raise SetupError(f"--prefer {preference}: no entry has finished. Try: bakeoff run again, or read its report")
    name, why = choice(results, preference)
    if name is None:
        among = ", ".join(chosen_among(verdict, preference))
        return f"Preferring {preference}: unknown, as it was not measured for all of {among}."
    return f"Preferring {preference}: {name} ({why}; {rivals(verdict, preference)})."


def chosen_among(verdict: Verdict, preference: str) -> list[str]:
    """Return the entries among which a preference chooses."""
    return [str(verdict.best), *verdict.tied_with_best] if preference == "quality" else verdict.near_best


def rivals(verdict: Verdict, preference: str) -> str:
    """Return in words among how many entries a preference chooses."""
    if preference == "quality":
        count = 1 + len(verdict.tied_with_best)
        return f"of the {count} entries tied on {verdict.heading}" if count > 1 else "the only entry in the top group"
    if verdict.worth is None:
        return "no difference can be measured here, so only the best entry counts"
    worth = f"{100 * verdict.worth:.1f} points" if verdict.bounded else f"{verdict.worth:.3g}"
    given = "protocol.worth" if verdict.worth_given else "half the detectable gap; protocol.worth sets another"
    count = len(verdict.near_best)
    if count == 1:
        return f"no other entry is shown to be within {worth} of it on {verdict.heading} ({given})"
    return f"of the {count} entries that are shown to be within {worth} of the best on {verdict.heading} ({given})"


def choice(results: ResultsDocument, preference: str) -> tuple[str | None, str]:
    """Return the entry that a preference chooses, and why; None if that was not measured for all of them."""
    name = results.verdict.recommendations[preference]
    if name is None:
        return None, ""
    row = results.entries[name]
    value = row.costs[COSTS[preference]] if preference in COSTS else row.fresh_loss
    most, form = WORDS[preference]
    return name, f"{most if len(chosen_among(results.verdict, preference)) > 1 else ''}{form(value)}"


def choices(results: ResultsDocument) -> list[dict[str, str | None]]:
    """Return every preference with its entry and the reason, for the page's cards."""
    choices = {word: choice(results, word) for word in PREFERENCES}
    verdict = results.verdict
    return [
        {"word": word, "name": name, "why": f"{why}; {rivals(verdict, word)}"} for word, (name, why) in choices.items()
    ]

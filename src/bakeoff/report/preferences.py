"""What people and a judge model prefer, for the page: a figure of net wins, and a table."""

from typing import Any

from bakeoff.report.charts.drawing import Figure, Point
from bakeoff.report.charts.pairs import chart
from bakeoff.report.differences import NOT_KNOWN
from bakeoff.store.results_document import Preference, ResultsDocument

WHOSE = {"people": "people", "people and judge": "people, with a judge", "judge": "judge alone"}


def preference_figures(results: ResultsDocument) -> list[Figure]:
    """Return the figure of all preferences with an interval; none if there are none."""
    rows = [row_of(row) for row in results.preferences if row.low is not None]
    if not rows:
        return []
    label = "Net wins, points: " + "; ".join(row["tip"] for row in rows) + "."
    shown = [{k: row[k] for k in ("pair", "difference", "low", "high", "p_adjusted", "said")} for row in rows]
    title = "What people, or a judge, prefer"
    return [Figure("preferences", title, label, chart(rows, "net wins, points"), shown)]


def row_of(row: Preference) -> Point:
    """Return one pair's net wins in points."""
    assert row.low is not None  # others are not in the figure
    assert row.high is not None
    value, low, high = 100 * row.net, 100 * row.low, 100 * row.high
    name = f"{row.first} \N{MINUS SIGN} {row.second} ({WHOSE[row.by]})"
    said = "different" if row.different else "tied"
    tip = f"{name}: {value:.0f} (95 % {low:.0f} to {high:.0f}), {said}"
    return {"pair": name, "difference": value, "low": low, "high": high, "p_adjusted": row.p_adjusted, "said": said,
            "tip": tip}  # fmt: skip


def preference_rows(results: ResultsDocument) -> list[dict[str, Any]]:
    """Return the table's rows: pair, net wins, whose they are, votes, and what is known of the judge."""
    return [{"name": f"{row.first} \N{MINUS SIGN} {row.second}", "cells": cells(row)} for row in results.preferences]


def cells(row: Preference) -> list[dict[str, str]]:
    """Return one pair's cells."""
    known = row.low is not None and row.high is not None
    span = f"{100 * (row.low or 0):.0f} to {100 * (row.high or 0):.0f}" if known else NOT_KNOWN
    shares = f"{row.wins:.0%} / {row.ties:.0%} / {row.both_bad:.0%} / {row.losses:.0%}"
    people = f"{row.votes:,} by {row.tasters:,}" if row.votes else ""
    p = row.p_adjusted
    judge = row.judge or ""
    asked = f"{row.judged:,} documents, {row.judge_tokens:,} tokens" if judge else ""
    texts = [
        (f"{100 * row.net:.0f}", span), (WHOSE[row.by], ""), (shares, ""), (people, f"{row.labels:,} documents"),
        (judge, asked), (share(row.agreement), ""), (share(row.flips), ""),
        (NOT_KNOWN if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}", ""),
        ("different" if row.different else "not shown to differ", ""),
    ]  # fmt: skip
    return [{"text": text or "\N{EN DASH}", "interval": span if text else ""} for text, span in texts]


def share(value: float | None) -> str:
    """Return a share in per cent; empty if it is not known."""
    return "" if value is None else f"{value:.0%}"

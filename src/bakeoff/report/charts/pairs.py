"""Pairwise differences with their intervals: which pairs are tied."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from bakeoff.report.charts.drawing import INK, SOFT, TIP, Figure, Point, data, draw
from bakeoff.store.results_document import Pair, Verdict

WIDTH, ROW = 340, 24
ROWS = 60  # of a figure at most
BRIEF = 15  # rows up to which all pairs are one figure; more are given for the best entry first


def pair_figures(verdict: Verdict) -> list[Figure]:
    """Return the figures of differences on the score that ranks: entries with each other, then with the baselines.

    With many entries the pairs of the best one have their own figure, and all pairs follow.
    """
    pairs, levels = verdict.pairs, verdict.baseline_pairs
    groups = [("pairs", "Entries with each other", pairs), ("baselines", "Entries with the baselines", levels)]
    if len(pairs) > BRIEF:
        first = [p for p in pairs if verdict.best in (p.first, p.second)]
        groups.insert(0, ("pairs-best", f"Entries with the best, {verdict.best}", first))
        groups[1] = ("pairs", f"All {len(pairs)} pairs of entries", pairs)
    return [
        figure(name, title, readable(group), verdict, len(group))
        for name, title, group in groups if any(p.low is not None for p in group)
    ]  # fmt: skip


def readable(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return at most ROWS pairs: those of the highest entries, each with everything that it is compared with."""
    firsts = list(dict.fromkeys(pair.first for pair in pairs))
    kept = set(firsts)
    while len([pair for pair in pairs if pair.first in kept]) > ROWS and len(kept) > 1:
        kept.discard(firsts.pop())
    return [pair for pair in pairs if pair.first in kept]


def figure(name: str, title: str, pairs: Sequence[Pair], verdict: Verdict, count: int) -> Figure:
    """Return one figure of the pairs whose interval is known, which may be the first of `count` pairs."""
    rows = [pair_row(p, verdict.bounded) for p in pairs if p.low is not None]
    measure = verdict.heading
    axis = f"difference in {measure}, points" if verdict.bounded else f"difference in {measure}"
    tied = [row["pair"] for row in rows if row["said"] == "tied"]
    label = f"{title}, differences on {measure}: " + "; ".join(row["tip"] for row in rows)
    label += f". Tied: {', '.join(tied)}." if tied else ". None is tied."
    shown = [{k: row[k] for k in ("pair", "difference", "low", "high", "p_adjusted", "said")} for row in rows]
    first = f"The first {len(pairs)} of {count} pairs, of the highest entries; the table below has the others."
    notes = (first,) if len(pairs) < count else ()
    return Figure(f"differences-{name}", title, label, chart(rows, axis), shown, notes=notes)


def pair_row(pair: Pair, bounded: bool) -> Point:
    """Return one pair's difference as a row; a score from 0 to 1 is in points (hundredths)."""
    name = f"{pair.first} \N{MINUS SIGN} {pair.second}"
    assert pair.low is not None  # others have no place in the figure
    assert pair.high is not None
    value, low, high = ((100 if bounded else 1) * end for end in (pair.difference, pair.low, pair.high))
    form = (lambda v: f"{v:.1f}") if bounded else (lambda v: f"{v:.3g}")
    said = "different" if pair.different else "tied"
    tip = f"{name}: {form(value)}{' points' if bounded else ''} (95 % {form(low)} to {form(high)}), {said}"
    return {"pair": name, "difference": value, "low": low, "high": high, "p_adjusted": pair.p_adjusted, "said": said,
            "tip": tip}  # fmt: skip


def chart(rows: list[Point], axis: str) -> str:
    """Return the drawing: full points differ, hollow ones are tied; zero is the line that a tie touches."""
    ends = [0.0, *(row[k] for row in rows for k in ("low", "high"))]
    margin = 0.05 * (max(ends) - min(ends) or 1)
    names = [row["pair"] for row in rows]
    y = alt.Y("pair:N", sort=names, title=None, axis=alt.Axis(labelLimit=300, domain=False, ticks=False))
    scale = alt.Scale(domain=[min(ends) - margin, max(ends) + margin], nice=False)
    x = alt.X("difference:Q", title=axis, scale=scale)
    parts = {said: [row for row in rows if row["said"] == said] for said in ("different", "tied")} | {
        "zero": [{"at": 0}]
    }
    layers: list[Any] = [data("zero").mark_rule(color=INK, opacity=0.7, aria=False).encode(x=alt.X("at:Q"))]
    for said, fill, colour in (("different", INK, INK), ("tied", "var(--paper)", SOFT)):
        part = data(said).encode(y=y, description=TIP)
        layers.append(part.mark_rule(strokeWidth=2, color=colour).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")))
        point = part.mark_point(filled=True, size=70, opacity=1, strokeWidth=2, stroke=colour, fill=fill)
        layers.append(point.encode(x=x))
        layers.append(
            part.mark_text(align="left", dx=8, fontSize=11, color=colour, aria=False).encode(
                text=alt.Text("said:N"), x=alt.XValue(WIDTH), description=alt.Undefined
            )
        )
    return draw(layers, parts, (WIDTH, {"step": ROW}), names=names)

"""Seeds in rounds: each rival's difference from the best entry at every look, with its interval over all looks."""

from typing import Any

import altair as alt

from bakeoff.report.charts.drawing import INK, SOFT, TIP, Figure, Point, data, draw, heading, safe_name
from bakeoff.store.results_document import LookRow, Verdict

WIDTH, HEIGHT = 220, 150
MOST = 12  # figures: the rivals that come closest


def look_figures(verdict: Verdict) -> list[Figure]:
    """Return a figure for each rival of the best entry; none if the number of seeds was fixed."""
    if verdict.rounds is None:
        return []
    by_rival: dict[str, list[LookRow]] = {}
    for row in verdict.rounds.rows:
        if row.low is not None:
            by_rival.setdefault(row.second, []).append(row)
    nearest = sorted(by_rival, key=lambda name: by_rival[name][-1].difference)[:MOST]
    ends = [value for name in nearest for row in by_rival[name] for value in span(row, verdict.bounded)]
    return [
        figure(name, number, by_rival[name], verdict, (min(0.0, *ends), max(0.0, *ends)))
        for number, name in enumerate(nearest)
    ]


def span(row: LookRow, bounded: bool) -> tuple[float, float]:
    """Return a look's interval as it is shown."""
    assert row.low is not None  # others have no figure
    assert row.high is not None
    scale = 100 if bounded else 1
    return scale * row.low, scale * row.high


def figure(rival: str, number: int, looks: list[LookRow], verdict: Verdict, ends: tuple[float, float]) -> Figure:
    """Return the figure of one rival's looks; `ends` are those of the axis, which all figures share."""
    best, scale = looks[0].first, 100 if verdict.bounded else 1
    different = any(pair.different for pair in verdict.pairs if {pair.first, pair.second} == {best, rival})
    rows: list[Point] = []
    for look in looks:
        low, high = span(look, verdict.bounded)
        tip = f"{look.seeds} seeds: {scale * look.difference:.3g} ({low:.3g} to {high:.3g})"
        rows.append({"seeds": look.seeds, "difference": scale * look.difference, "low": low, "high": high, "tip": tip})
    title = f"{best} \N{MINUS SIGN} {rival}"
    label = f"{title} on {verdict.heading} at each look: " + "; ".join(row["tip"] for row in rows)
    label += ". Shown to differ." if different else ". Tied."
    shown = [{key: row[key] for key in ("seeds", "difference", "low", "high")} for row in rows]
    note = "different" if different else "tied"
    assert verdict.rounds is not None  # it has looks
    drawing = chart(rows, verdict, heading(title, note), ends)
    return Figure(f"look-{number + 1}-{safe_name(rival)}", title, label, drawing, shown)


def chart(rows: list[Point], verdict: Verdict, title: alt.TitleParams, ends: tuple[float, float]) -> str:
    """Return the drawing: intervals that narrow from look to look, and zero, which a difference must leave out."""
    assert verdict.rounds is not None
    margin = 0.05 * (ends[1] - ends[0] or 1)
    unit = f"difference in {verdict.heading}, points" if verdict.bounded else f"difference in {verdict.heading}"
    across = alt.Scale(domain=[verdict.rounds.looks[0] - 0.5, verdict.rounds.looks[-1] + 0.5], nice=False)
    x = alt.X("seeds:Q", title="seeds", scale=across, axis=alt.Axis(values=verdict.rounds.looks, format="d"))
    y = alt.Y("low:Q", title=unit, scale=alt.Scale(domain=[ends[0] - margin, ends[1] + margin], nice=False))
    layers: list[Any] = [
        data("zero").mark_rule(color=INK, opacity=0.7, aria=False).encode(y=alt.Y("at:Q")),
        data("looks").mark_rule(strokeWidth=2, color=SOFT).encode(x=x, y=y, y2=alt.Y2("high:Q"), description=TIP),
        data("looks").mark_point(filled=True, size=60, opacity=1, color=INK, fill=INK).encode(
            x=x, y=alt.Y("difference:Q"), description=TIP
        ),
    ]  # fmt: skip
    return draw(layers, {"looks": rows, "zero": [{"at": 0}]}, (WIDTH, HEIGHT), title)

"""Several tasks and bases: each entry's score on each, and differences from the best one per task and over tasks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from bakeoff.report.charts.drawing import (
    INK,
    SOFT,
    TIP,
    Figure,
    Point,
    colors,
    data,
    draw,
    heading,
    safe_name,
    shapes,
)
from bakeoff.store.tasks_document import TaskMeasure, TaskPair, TasksDocument

WIDTH, HEIGHT, ROW = 260, 220, 22
MOST = 12  # rivals with a figure: the nearest
NEW, ALL = "one more task", "all tasks"


def task_figures(document: TasksDocument) -> list[Figure]:
    """Return the figures of every measure: its scores, one panel per base, then differences from the best entry."""
    found = []
    for measure in document.measures:
        found += [score_figure(measure, document, base) for base in document.bases]
        mine = [pair for pair in measure.pairs if pair.first == measure.best]
        nearest = sorted(mine, key=lambda pair: abs(pair.difference))[:MOST]
        found += [forest(measure, pair, number) for number, pair in enumerate(nearest)]
    return found


def scaled(measure: TaskMeasure, value: float) -> float:
    """Return a value as a figure shows it: points, per cent of the base's loss, or as it is."""
    if measure.ratio:
        return 100 * (math.exp(value) - 1)
    return 100 * value if measure.bounded else value


def unit(measure: TaskMeasure) -> str:
    """Return what the axis of a measure is."""
    if measure.ratio:
        return "test loss against the base's, %"
    return f"{measure.heading}, points" if measure.bounded else measure.heading


def score_figure(measure: TaskMeasure, document: TasksDocument, base: str) -> Figure:
    """Return each entry's score on each task of one base."""
    rows: list[Point] = [
        {"entry": name, "task": task, "value": scaled(measure, measure.scores[name][task][base]),
         "tip": f"{name} on {task}: {scaled(measure, measure.scores[name][task][base]):.1f}"}
        for name in document.entries for task in document.tasks
    ]  # fmt: skip
    title = f"{unit(measure)} on {base}"
    x = alt.X("task:N", sort=document.tasks, title=None, axis=alt.Axis(labelAngle=0, labelLimit=110))
    y = alt.Y("value:Q", title=unit(measure), scale=alt.Scale(zero=False))
    names = document.entries
    line = data("scores").mark_line(strokeWidth=1.5, opacity=0.5).encode(x=x, y=y, color=colors(names))
    point = data("scores").mark_point(filled=True, size=80, opacity=1).encode(
        x=x, y=y, color=colors(names), shape=shapes(names), description=TIP
    )  # fmt: skip
    svg = draw([line, point], {"scores": rows}, (max(WIDTH, 70 * len(document.tasks)), HEIGHT), heading(f"on {base}"))
    label = f"{title}: " + "; ".join(row["tip"] for row in rows)
    shown = [{key: row[key] for key in ("entry", "task", "value")} | {"base": base} for row in rows]
    return Figure(f"{measure.name}-on-{safe_name(base)}", title, label, svg, shown)


def forest(measure: TaskMeasure, pair: TaskPair, number: int) -> Figure:
    """Return one pair's difference on each task, over all, and where it would lie on one more."""
    spans: Mapping[str, Sequence[float]] = pair.spans
    rows = [row_of(measure, task, value, spans.get(task), "task") for task, value in pair.by_task.items()]
    whole = None if pair.low is None or pair.high is None else (pair.low, pair.high)
    rows.append(row_of(measure, ALL, pair.difference, whole, "all"))
    if pair.new_low is not None and pair.new_high is not None:
        rows.append(row_of(measure, NEW, pair.difference, (pair.new_low, pair.new_high), "new"))
    title = f"{pair.first} \N{MINUS SIGN} {pair.second}"
    said = "different" if pair.different else "tied"
    label = f"{title}, {unit(measure)}: " + "; ".join(row["tip"] for row in rows) + f". Over all: {said}."
    drawing = chart(rows, f"difference, {unit(measure)}", heading(title, f"over all: {said}"))
    shown = [{key: row[key] for key in ("task", "difference", "low", "high")} for row in rows]
    return Figure(f"{measure.name}-{number + 1}-{safe_name(pair.second)}", title, label, drawing, shown)


def row_of(measure: TaskMeasure, name: str, value: float, span: Sequence[float] | None, kind: str) -> Point:
    """Return one line of a forest; without an interval its ends are the value."""
    low, high = span or (value, value)
    ends = [scaled(measure, end) for end in (value, low, high)]
    tip = f"{name}: {ends[0]:.1f}" + (f" ({ends[1]:.1f} to {ends[2]:.1f})" if span else "")
    return {"task": name, "difference": ends[0], "low": ends[1], "high": ends[2], "kind": kind, "tip": tip}


def chart(rows: list[Point], axis: str, title: alt.TitleParams) -> str:
    """Return the drawing: thin lines are tasks, the thick one is all together, the dashed one a further task."""
    ends = [0.0, *(row[key] for row in rows for key in ("low", "high"))]
    margin = 0.05 * (max(ends) - min(ends) or 1)
    scale = alt.Scale(domain=[min(ends) - margin, max(ends) + margin], nice=False)
    names = [row["task"] for row in rows]
    y = alt.Y("task:N", sort=names, title=None, axis=alt.Axis(labelLimit=160, domain=False, ticks=False))
    x = alt.X("difference:Q", title=axis, scale=scale, axis=alt.Axis(tickCount=6))  # more would touch
    layers: list[Any] = [data("zero").mark_rule(color=INK, opacity=0.7, aria=False).encode(x=alt.X("at:Q"))]
    for kind, colour, width, dash in (("task", SOFT, 1.5, [1, 0]), ("all", INK, 3.5, [1, 0]), ("new", SOFT, 2, [4, 3])):
        rule = data(kind).mark_rule(color=colour, strokeWidth=width, strokeDash=dash)
        layers.append(rule.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, description=TIP))
        if kind != "new":
            point = data(kind).mark_point(filled=True, size=65, opacity=1, color=colour, fill=colour)
            layers.append(point.encode(x=x, y=y))
    parts = {kind: [row for row in rows if row["kind"] == kind] for kind in ("task", "all", "new")}
    return draw(layers, parts | {"zero": [{"at": 0}]}, (WIDTH, {"step": ROW}), title, names)

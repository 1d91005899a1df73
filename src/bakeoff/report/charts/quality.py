"""Quality against cost: one point per entry with its interval, the Pareto line, and baselines as dashed lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from bakeoff.analysis.columns import TEST_LOSS, Column, columns
from bakeoff.report.charts.drawing import INK, SOFT, TIP, Figure, Point, colors, data, draw, safe_name, shapes
from bakeoff.report.charts.labels import LETTER, LINE, place
from bakeoff.store.results_document import ResultsDocument, ResultsRow

WIDTH, HEIGHT = 520, 330
SCORES = 3  # axes of quality beside test loss


@dataclass(frozen=True)
class Axis:
    """One axis: the table's column of the same figure, the axis's name in files, its title.

    `lower` is better on an axis of quality; `log` is for a cost that spans orders of magnitude.
    """

    column: Column
    name: str
    title: str
    lower: bool = False
    log: bool = False


def qualities(results: ResultsDocument) -> list[Axis]:
    """Return the axes of quality: the score that ranks, the first others, test loss."""
    scores = sorted(results.metrics, key=lambda m: m.name != results.primary)[:SCORES]
    by_key = {column.key: column for column in columns(results)}
    names = [safe_name(m.name) for m in scores]
    names = [name if [*names, "loss"].count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names, start=1)]
    axes = [Axis(by_key[f"metrics/test/{m.name}"], name, m.heading) for m, name in zip(scores, names, strict=True)]
    return [*axes, Axis(TEST_LOSS, "loss", TEST_LOSS.heading, lower=True)]


def costs(results: ResultsDocument) -> list[Axis]:
    """Return the axes of cost."""
    by_key = {column.key: column for column in columns(results)}
    return [
        Axis(by_key["trainable_parameters"], "trainable", "trainable parameters", log=True),
        Axis(by_key["costs/adapter_bytes"], "adapter", "adapter size", log=True),
        Axis(by_key["costs/train_seconds"], "train-seconds", "training time, s"),
        Axis(by_key["costs/peak_bytes"], "peak", "peak memory, GiB"),
    ]


def quality_cost(results: ResultsDocument, quality: Axis, cost: Axis) -> Figure | None:
    """Return one figure; None if no finished entry has both values. A cost of 0 is left out on a log axis."""
    names = list(results.entries)
    points = [p for n, row in results.entries.items() if (p := point(n, row, quality, cost))]
    if not points:
        return None
    levels = [
        {"entry": n, "quality": value}
        for n, row in results.baselines.items() if (value := quality.column.value(row)) is not None
    ]  # fmt: skip
    front = pareto(points, quality.lower)
    best = " and ".join([", ".join(p["entry"] for p in front[:-1]), front[-1]["entry"]]) if front[1:] else ""
    first = f"{front[0]['entry']} has both the lowest cost and the {'lowest' if quality.lower else 'highest'}"
    first += f" {quality.title}" + (" of those shown" if results.of_entries else "")
    note = f"On the line: {best}." if best else f"{first}; the verdict says whether that is more than chance."
    near = [level for level in levels if is_near(level, points)]
    far = [f"{level['entry']} ({level['quality']:.3f})" for level in levels if level not in near]
    note += f" Off the axis: {', '.join(far)}." if far else ""
    label = f"{quality.title} against {cost.title}: " + "; ".join(p["tip"] for p in points) + f". {note}"
    rows = [{k: p[k] for k in ("entry", "quality", "low", "high", "cost")} for p in points] + levels
    return Figure(
        name=f"{quality.name}-against-{cost.name}",
        title=f"{quality.title} against {cost.title}",
        label=label,
        svg=chart(points, near, front, names, quality, cost),
        rows=rows,
        notes=(note,),
    )


def point(name: str, row: ResultsRow, quality: Axis, cost: Axis) -> Point | None:
    """Return one entry's point, or None if a value is missing."""
    score, value = quality.column.value(row), cost.column.value(row)
    if row.status != "done" or score is None or value is None or (cost.log and value <= 0):
        return None
    low, high = quality.column.interval(row) or (score, score)
    span = f" (95 % {low:.3f} to {high:.3f})" if low < high else ""
    shown = value / 2**30 if cost.name == "peak" else value
    return {
        "entry": name, "quality": score, "low": low, "high": high, "cost": value, "x": shown,
        "tip": f"{name}: {score:.3f}{span} at {cost.column.form(value)}",
    }  # fmt: skip


def is_near(level: Point, points: Sequence[Point]) -> bool:
    """Return whether a level is so near the entries' intervals that they stay readable if it is shown."""
    low, high = min(p["low"] for p in points), max(p["high"] for p in points)
    room = max(high - low, 0.05)
    return low - room <= level["quality"] <= high + room


def pareto(points: Sequence[Point], lower: bool) -> list[Point]:
    """Return the points that no other beats on both quality and cost, the cheapest first."""
    sign = 1 if lower else -1
    front: list[Point] = []
    for candidate in sorted(points, key=lambda p: (p["cost"], sign * p["quality"])):
        if not front or sign * candidate["quality"] < sign * front[-1]["quality"]:
            front.append({**candidate, "order": len(front)})
    return front


def chart(
    points: list[Point], levels: list[Point], front: list[Point], names: list[str], quality: Axis, cost: Axis
) -> str:
    """Return the drawing; better is up, also for losses, whose axis is turned around."""
    values = [p[k] for p in points for k in ("low", "high")] + [p["quality"] for p in levels]
    margin = 0.09 * (max(values) - min(values) or 0.1)
    span = [min(values) - margin, max(values) + margin]
    y_scale = alt.Scale(domain=span[::-1] if quality.lower else span, nice=False, zero=False)
    y = alt.Y("quality:Q", title=quality.title, scale=y_scale)
    domain, axis = cost_axis([p["x"] for p in points], cost)
    kind = "log" if cost.log else "linear"
    x = alt.X("x:Q", title=cost.title, axis=axis, scale=alt.Scale(type=kind, domain=domain, nice=False))
    base = data("points").encode(x=x, y=y, color=colors(names))
    rules, texts = data("levels").encode(y=y), data("names").encode(x=x, y=y)
    layers = [
        rules.mark_rule(strokeDash=[4, 4], color=SOFT, aria=False),
        rules.mark_text(align="right", dx=-4, dy=-6, fontSize=11, color=SOFT, aria=False).encode(
            text=alt.Text("names:N"), x=alt.XValue(WIDTH)
        ),
        data("front")
        .mark_line(color=INK, opacity=0.3, strokeWidth=1.5, aria=False)
        .encode(x=x, y=y, order=alt.Order("order:Q")),
        base.mark_rule(strokeWidth=1.5, opacity=0.6, aria=False).encode(
            y=alt.Y("low:Q", title=quality.title), y2=alt.Y2("high:Q")
        ),
        base.mark_point(filled=True, size=130, opacity=1).encode(shape=shapes(names), description=TIP),
        # Names are ink, to be read; the outline of no width is how a rule on an entry's colour finds them.
        texts.mark_text(
            dx=alt.ExprRef("datum.dx"), dy=alt.ExprRef("datum.dy"), fontSize=12, fill=INK, strokeWidth=0, aria=False
        ).encode(text=alt.Text("entry:N"), stroke=alt.Stroke("entry:N", scale=colors(names)["scale"], legend=None)),
    ]
    lines = together(levels, span, quality)
    names_at = placed(points, lines, domain, span, quality, cost)
    rows = {"points": points, "levels": lines, "front": front, "names": names_at}
    return draw(layers, rows, (WIDTH, HEIGHT))


def placed(
    points: list[Point], levels: list[Point], domain: list[float], span: list[float], quality: Axis, cost: Axis
) -> list[Point]:
    """Return the points whose names have room, with the places of the names."""
    on_axis = math.log10 if cost.log else float
    left, right = (on_axis(v) for v in domain)
    places = [(WIDTH * (on_axis(p["x"]) - left) / (right - left), height(p["quality"], span, quality)) for p in points]
    others = [
        (WIDTH - 4 - LETTER * len(level["names"]), y - 13, float(WIDTH), y)
        for level in levels if (y := height(level["quality"], span, quality)) and level["names"]
    ]  # fmt: skip
    shifts = place(places, [p["entry"] for p in points], WIDTH, others)
    return [{**p, "dx": shift[0], "dy": shift[1]} for p, shift in zip(points, shifts, strict=True) if shift]


def height(value: float, span: list[float], quality: Axis) -> float:
    """Return how far below the top a value of quality is, in pixels."""
    bottom, top = span[::-1] if quality.lower else span
    return HEIGHT * (1 - (value - bottom) / (top - bottom))


def together(levels: list[Point], span: list[float], quality: Axis) -> list[Point]:
    """Return the levels with `names` to show; levels that are too close for a line each share the uppermost one."""

    def at(level: Point) -> float:
        return height(level["quality"], span, quality)

    groups: list[list[Point]] = []
    for level in sorted(levels, key=at):
        if groups and at(level) - at(groups[-1][0]) < LINE:
            groups[-1].append(level)
        else:
            groups.append([level])
    named = [(group, ", ".join(level["entry"] for level in group)) for group in groups]
    return [{**level, "names": names if level is group[0] else ""} for group, names in named for level in group]


def cost_axis(values: list[float], cost: Axis) -> tuple[list[float], alt.Axis]:
    """Return an axis range with room around the points, and its ticks: powers of ten on a log axis."""
    low, high = min(values), max(values)
    if not cost.log:
        return [0, high * 1.15], alt.Axis(tickCount=6, format="~g" if cost.name == "peak" else "~s")
    first, last = (math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [10**k for k in range(first - 1, last + 2)]
    return [low / 2.5, high * 2.5], alt.Axis(values=ticks, format="~s")

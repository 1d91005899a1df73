"""Charts as inline SVG: drawn by Vega-Lite when the report is written, so the page needs no script.

Colours are CSS variables of the page, so one drawing serves light and dark. Each series also has a shape or dash of
its own, and a label beside it: colour alone says nothing.
"""

import math
import re
from typing import Any

import altair as alt
import vl_convert

Point = dict[str, Any]
INK = "currentColor"
SERIES = [f"var(--series-{i})" for i in range(1, 8)]  # Okabe and Ito's palette, in page.css
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]


def quality_cost(points: list[Point], baselines: dict[str, float], cost: str, heading: str, log: bool) -> str | None:
    """Return ROUGE-L against one cost: a point an entry with its interval, the Pareto line, baselines as levels.

    `points` hold entry, `cost`, score, low, high; those without a cost (or at 0 on a log axis) are left out. None
    where nothing is left.
    """
    shown = [p for p in points if p.get(cost) is not None and (p[cost] > 0 or not log)]
    if not shown:
        return None
    names = [p["entry"] for p in points]
    values = [p[k] for p in shown for k in ("low", "high")] + list(baselines.values())
    low, high = min(values), max(values)
    margin = 0.08 * (high - low or 0.1)
    y = alt.Y("score:Q", title="ROUGE-L F", scale=alt.Scale(domain=[low - margin, high + margin], nice=False))
    x = alt.X(
        f"{cost}:Q", title=heading, scale=cost_scale([p[cost] for p in shown], log), axis=cost_axis(shown, cost, log)
    )
    chart = alt.Chart(alt.Data(values=shown)).encode(x=x, y=y, color=color(names))
    front = alt.Chart(alt.Data(values=pareto(shown, cost))).encode(x=x, y=y, order="order:Q")
    layers = [
        front.mark_line(color=INK, opacity=0.35, strokeWidth=1.5),
        chart.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title="ROUGE-L F"), y2="high:Q"),
        chart.mark_point(filled=True, size=110, opacity=1).encode(shape=shape(names)),
    ]
    for anchor, side in (("left", 1), ("right", -1)):
        part = [p for p in shown if (side < 0) == right_half(p, shown, cost, log)]
        layers.append(
            alt.Chart(alt.Data(values=part)).mark_text(align=anchor, dx=10 * side, dy=-9, fontSize=12, color=INK)
            .encode(x=x, y=y, text="entry:N")
        )  # fmt: skip
    levels = [{"name": n, "score": v} for n, v in baselines.items()]
    rules = alt.Chart(alt.Data(values=levels)).encode(y=y)
    layers.append(rules.mark_rule(strokeDash=[4, 4], color=INK, opacity=0.6))
    layers.append(
        rules.mark_text(align="left", dx=4, dy=-6, fontSize=11, color=INK, opacity=0.8).encode(
            text="name:N", x=alt.value(0)
        )
    )
    return draw(alt.layer(*layers).properties(width=380, height=260))


def right_half(point: Point, points: list[Point], cost: str, log: bool) -> bool:
    """Return whether a point stands so far right that its label belongs to its left."""
    place = math.log10 if log else float
    low, high = (place(f(p[cost] for p in points)) for f in (min, max))
    return high > low and place(point[cost]) > low + 0.5 * (high - low)


def cost_scale(values: list[float], log: bool) -> alt.Scale:
    """Return an axis range with room around the points."""
    low, high = min(values), max(values)
    if log:
        return alt.Scale(type="log", domain=[low / 3, high * 3], nice=False)
    return alt.Scale(domain=[0, high * 1.15], nice=False)


def cost_axis(points: list[Point], cost: str, log: bool) -> alt.Axis:
    """Return ticks at powers of ten on a log axis."""
    if not log:
        return alt.Axis(tickCount=6, format="~s")
    low, high = (f(math.log10(p[cost]) for p in points) for f in (min, max))
    return alt.Axis(values=[10**k for k in range(math.floor(low) - 1, math.ceil(high) + 2)], format="~s")


def pareto(points: list[Point], cost: str) -> list[Point]:
    """Return the points that no other beats on both score and cost, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p[cost], -p["score"])):
        if not front or point["score"] > front[-1]["score"]:
            front.append({**point, "order": len(front)})
    return front


def curves(rows: list[Point], best: list[Point], names: list[str]) -> dict[str, str]:
    """Return train and validation loss against epochs, a drawing an entry over the same axes, best checkpoint ringed.

    `rows` hold entry, run, epoch, split, loss; `best` the rows that the kept checkpoints were taken at. An entry of
    `names` without rows has no drawing.
    """
    if not rows:
        return {}
    losses = [row["loss"] for row in rows]
    # Steps that went far off would press every other curve flat; the axis ends where most of the story does.
    top = min(max(losses), 3 * sorted(losses)[len(losses) // 2])
    y = alt.Y("loss:Q", title="nats per target token", scale=alt.Scale(domain=[min(losses), top], clamp=True))
    epochs = math.ceil(max(row["epoch"] for row in rows))
    ticks = list(range(0, epochs + 1, math.ceil(epochs / 6) or 1))
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=ticks, format="d"), scale=alt.Scale(domain=[0, epochs]))
    drawn = {}
    for number, name in enumerate(names):
        own, kept = ([r for r in part if r["entry"] == name] for part in (rows, best))
        if own:
            hue = alt.value(SERIES[number % len(SERIES)])
            chart = alt.Chart(alt.Data(values=own)).encode(x=x, y=y, color=hue)
            line = chart.mark_line(strokeWidth=2).encode(strokeDash=dashes(), detail="run:N")
            ring = alt.Chart(alt.Data(values=kept)).encode(x=x, y=y)
            mark = ring.mark_point(size=120, strokeWidth=2, filled=False, shape="circle", color=INK)
            title = alt.TitleParams(name, color=INK, anchor="start", fontSize=13)
            drawn[name] = draw(alt.layer(line, mark).properties(width=270, height=200, title=title))
    return drawn


def sweep(points: list[Point], name: str, field: str, log: bool, number: int) -> str:
    """Return an entry's trials: lowest validation loss against a searched field, the chosen trial ringed.

    `points` hold value, loss, status and chosen; a trial that was stopped on the way is a hollow point. `number` is
    the entry's place among all, for its colour.
    """
    scale = alt.Scale(type="log" if log else "linear", zero=False, nice=False, padding=24)
    x = alt.X("value:Q", title=field.replace("_", " "), scale=scale, axis=alt.Axis(format="~g", tickCount=5))
    y = alt.Y("loss:Q", title="validation loss", scale=alt.Scale(zero=False, padding=14))
    ended, stopped, chosen = (
        alt.Chart(alt.Data(values=part)).encode(x=x, y=y)
        for part in (
            [p for p in points if p["status"] == "done"],
            [p for p in points if p["status"] != "done"],
            [p for p in points if p["chosen"]],
        )
    )
    hue = SERIES[number % len(SERIES)]
    layers = [
        stopped.mark_point(filled=False, size=80, strokeWidth=2, color=hue),
        ended.mark_point(filled=True, size=80, opacity=1, color=hue),
        chosen.mark_point(filled=False, size=260, strokeWidth=2, color=INK),
        alt.Chart(alt.Data(values=points)).mark_text(dy=-14, fontSize=11, color=INK).encode(
            x=x, y=y, text=alt.Text("value:Q", format=".2~g")
        ),
    ]  # fmt: skip
    title = alt.TitleParams(name, color=INK, anchor="start", fontSize=13)
    return draw(alt.layer(*layers).properties(width=270, height=200, title=title))


def dashes() -> alt.StrokeDash:
    """Return a full line for validation and a broken one for train, named above the panels."""
    legend = alt.Legend(title=None, orient="top", symbolStrokeColor=INK, symbolSize=300)
    scale = alt.Scale(domain=["validation", "train"], range=[[1, 0], [4, 3]])
    return alt.StrokeDash("split:N", scale=scale, legend=legend)


def color(names: list[str]) -> alt.Color:
    """Return one colour an entry, the same in every chart."""
    return alt.Color("entry:N", scale=alt.Scale(domain=names, range=cycle(SERIES, names)), legend=None)


def shape(names: list[str]) -> alt.Shape:
    """Return one shape an entry, the same in every chart."""
    return alt.Shape("entry:N", scale=alt.Scale(domain=names, range=cycle(SHAPES, names)), legend=None)


def cycle(values: list[str], names: list[str]) -> list[str]:
    """Return a value for every name, beginning again where they run out."""
    return [values[i % len(values)] for i in range(len(names))]


def draw(chart: Any) -> str:
    """Return the chart as an SVG element without background; a screen reader passes it over, its figure has a label."""
    spec = (
        chart.configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK, titleColor=INK, domainColor=INK, tickColor=INK, gridColor=INK, gridOpacity=0.12,
            labelFontSize=11, titleFontSize=12, titleFontWeight="normal", domainOpacity=0.4, tickOpacity=0.4,
        )
        .configure_legend(labelColor=INK, labelFontSize=12)
        .to_dict(validate=False)
    )  # fmt: skip
    svg = vl_convert.vegalite_to_svg(spec)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    head = f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" aria-hidden="true">'
    return re.sub(r"^<svg [^>]*>", head, svg)

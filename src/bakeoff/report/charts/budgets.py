"""The expected validation loss of entries against their number of trials: whether the order depends on the budget."""

import altair as alt

from bakeoff.analysis.budgets import budget_note, curves_of
from bakeoff.analysis.columns import counted
from bakeoff.report.charts.drawing import INK, TIP, Figure, Point, colors, data, draw, shapes
from bakeoff.report.charts.labels import column
from bakeoff.store.results_document import ResultsDocument

WIDTH, HEIGHT = 330, 260
NAMES_AT, LONGEST = WIDTH + 24, 150  # where names begin and how long one can be, in pixels
MOST = 12  # entries that are drawn: the best with all trials
SPREAD = 4  # the axis ends at so many times the spread of what the drawn entries have with all trials


def budget_figures(results: ResultsDocument) -> list[Figure]:
    """Return the figure, or none if fewer than two entries have been tuned."""
    curves = curves_of(results)
    if len(curves) < 2:
        return []
    rows: list[Point] = [
        {"entry": name, "trials": k, "loss": loss, "tip": f"{name}: {loss:.3f} with {counted(k, 'trial')}"}
        for name, losses in curves.items() for k, loss in enumerate(losses, 1)
    ]  # fmt: skip
    drawn = list(curves)[:MOST]
    note = budget_note(curves)
    notes = (note, f"The {MOST} lowest of {len(curves)} entries are drawn") if len(curves) > MOST else (note,)
    ends = [f"{name} {losses[0]:.3f} with 1 trial, {losses[-1]:.3f} with {len(losses)}" for name, losses in
            list(curves.items())[:MOST]]  # fmt: skip
    return [
        Figure(
            name="tuning-budget",
            title="Validation loss against tuning budget",
            label=f"Expected lowest validation loss by number of trials: {'; '.join(ends)}. {note}",
            svg=chart([row for row in rows if row["entry"] in drawn], list(results.entries)),
            rows=[{key: row[key] for key in ("entry", "trials", "loss")} for row in rows],
            notes=notes,
        )
    ]


def chart(rows: list[Point], names: list[str]) -> str:
    """Return the drawing, with the entries' names in a column beside it, joined to the ends of their lines."""
    most, losses = max(row["trials"] for row in rows), [row["loss"] for row in rows]
    last = [row for row in rows if row["trials"] == max(r["trials"] for r in rows if r["entry"] == row["entry"])]
    low = min(losses)
    top = min(max(losses), low + SPREAD * max(max(row["loss"] for row in last) - low, 0.02))
    margin = 0.06 * (top - low or 0.1)
    span = (low - margin, top + margin)
    y = alt.Y("loss:Q", title="expected validation loss",
              scale=alt.Scale(domain=list(span), clamp=True, nice=False, zero=False))  # fmt: skip
    ticks = sorted({max(1, round(most * share / 8)) for share in range(1, 9)} | {1})
    x = alt.X("trials:Q", title="trials", axis=alt.Axis(values=ticks, format="d", grid=False),
              scale=alt.Scale(domain=[1, most], nice=False))  # fmt: skip
    heights = column([HEIGHT * (span[1] - row["loss"]) / (span[1] - span[0]) for row in last], HEIGHT)
    named = [
        {**row, "beside": span[1] - height * (span[1] - span[0]) / HEIGHT}
        for row, height in zip(last, heights, strict=True)
    ]
    base, ends = data("rows").encode(x=x, y=y, color=colors(names)), data("names")
    layers = [
        ends.mark_rule(strokeWidth=1, opacity=0.4, aria=False).encode(
            x=x, y=y, x2=alt.X2Value(NAMES_AT - 4), y2=alt.Y2("beside:Q"), color=colors(names)
        ),
        base.mark_line(strokeWidth=2, aria=False),
        base.mark_point(filled=True, size=50, opacity=1).encode(shape=shapes(names), description=TIP),
        ends.mark_text(
            align="left", baseline="middle", limit=LONGEST, fontSize=12, fill=INK, strokeWidth=0, aria=False
        ).encode(
            x=alt.XValue(NAMES_AT), y=alt.Y("beside:Q"), text=alt.Text("entry:N"),
            stroke=alt.Stroke("entry:N", scale=colors(names)["scale"], legend=None),
        ),
    ]  # fmt: skip
    return draw(layers, {"rows": rows, "names": named}, (WIDTH, HEIGHT))

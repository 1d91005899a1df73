"""What each entry costs, as bars from zero: one figure per cost."""

import altair as alt

from bakeoff.analysis.columns import Column, columns
from bakeoff.report.charts.drawing import INK, TIP, Figure, colors, data, draw, heading
from bakeoff.store.results_document import ResultsDocument

WIDTH, ROW = 190, 24
SHOWN = (
    "costs/train_seconds", "costs/tuning_seconds", "costs/peak_bytes", "costs/adapter_bytes", "trainable_parameters",
    "costs/tokens_per_second", "costs/price",
)  # fmt: skip
TITLES = {
    "costs/train_seconds": "training time, s", "costs/tuning_seconds": "tuning time, s",
    "costs/peak_bytes": "peak memory", "costs/adapter_bytes": "adapter size",
    "trainable_parameters": "trainable parameters", "costs/tokens_per_second": "tokens/s in training",
    "costs/price": "price of one training",
}  # fmt: skip


def cost_bars(results: ResultsDocument) -> list[Figure]:
    """Return a figure for each cost that any entry has."""
    known = {column.key: column for column in columns(results)}
    return [f for key in SHOWN if key in known and (f := cost_bar(results, known[key]))]


def cost_bar(results: ResultsDocument, column: Column) -> Figure | None:
    """Return the figure of one cost, or None if it was measured for no entry."""
    names = [n for n, row in results.entries.items() if row.status == "done"]
    values = {n: column.value(results.entries[n]) for n in names}
    if not any(values.values()):
        return None
    rows = [{"entry": n, "value": v, "shown": "" if v is None else column.form(v)} for n, v in values.items()]
    title = TITLES[column.key]
    name = column.key.removeprefix("costs/").replace("_", "-")
    label = f"{title}: " + ", ".join(f"{row['entry']} {row['shown'] or 'not measured'}" for row in rows)
    y = alt.Y(
        "entry:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=200, labelPadding=6)
    )
    top = max(v for v in values.values() if v is not None)
    x = alt.X("value:Q", axis=None, scale=alt.Scale(domain=[0, top * 1.45], nice=False))
    tips = [{**row, "tip": f"{row['entry']}: {row['shown']}"} for row in rows]
    base = data("costs").encode(x=x, y=y)
    bars = base.mark_bar(height=13, cornerRadiusEnd=2, opacity=1).encode(
        color=colors(list(results.entries)), description=TIP
    )
    text = base.mark_text(align="left", dx=5, fontSize=11, color=INK, aria=False).encode(text=alt.Text("shown:N"))
    drawn = draw([bars, text], {"costs": tips}, (WIDTH, {"step": ROW}), heading(title), names)
    return Figure(f"cost-{name}", title, label, drawn, [{k: row[k] for k in ("entry", "value")} for row in rows])

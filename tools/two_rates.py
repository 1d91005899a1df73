"""What docs/study.md and docs/real-model.md have in common: methods at one shared learning rate and each at its own.

Both conditions may be in one bakeoff or in two: `names` say of each of its entries which method it is, by its heading,
and which condition. A ranking is by the mean over seeds.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from bakeoff.store.run_folder import Folder

EARLIER = (
    "The correction is Holm's, as it was then; since 2026-11-30 ties are judged by Shaffer's steps "
    "([verdict](verdict.md))."
)
DOCS = Path(__file__).parent.parent / "docs"
CONDITIONS = {"shared": "one shared rate, 5e-5", "tuned": "its own tuned rate"}
COLOURS = ["#d55e00", "#0072b2"]
METRICS = {
    "test/loss": "test loss (nats per token; lower is better)",
    "test/rougeL": "test ROUGE-L F (higher is better)",
}
Names = dict[str, tuple[str, str]]
TIMED = {"train s", "tokens/s", "tuning s", "peak memory"}  # columns of costs


def rows(document: Any, names: Names) -> list[dict[str, Any]]:
    """Return a row an entry: method, condition, learning rate and each metric's mean with its interval."""
    found = []
    for name, entry in document.entries.items():
        method, condition = names[name]
        spans = {metric: entry.metrics[metric] for metric in METRICS}
        found.append({
            "method": method, "condition": CONDITIONS[condition], "rate": entry.learning_rate,
            **{f"{metric}/{k}": v for metric, span in spans.items() for k, v in span.row().items()},
        })  # fmt: skip
    return found


def scores_picture(table: list[dict[str, Any]], document: Any) -> alt.HConcatChart:
    """Return the panels of all metrics side by side; `document` has the untouched base's means."""
    order, base = order_of(table), document.baselines["base"].metrics
    panels = [panel(table, order, metric, base[metric].mean) for metric in METRICS]
    return alt.hconcat(*panels).resolve_scale(color="shared")


def order_of(table: list[dict[str, Any]]) -> list[str]:
    """Return the methods in the order of their entries."""
    return list(dict.fromkeys(row["method"] for row in table))


def panel(table: list[dict[str, Any]], order: list[str], metric: str, base: float) -> alt.LayerChart:
    """Return one metric: a point with its interval for each method under each condition, and the base as a line."""
    data = [{k.replace("/", "_").replace(".", "_"): v for k, v in row.items()} for row in table]
    name, height = metric.replace("/", "_"), 50 * len(order)
    chart = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("method:N", title=None, sort=order),
        yOffset=alt.YOffset("condition:N", sort=list(CONDITIONS.values())),
        color=alt.Color("condition:N", title=None, sort=list(CONDITIONS.values()),
                        scale=alt.Scale(range=COLOURS), legend=alt.Legend(orient="top")),
    )  # fmt: skip
    shape = alt.Shape("condition:N", sort=list(CONDITIONS.values()), legend=None)
    x = alt.X(f"{name}_mean:Q", title=METRICS[metric], scale=alt.Scale(zero=False))
    rule = alt.Chart(alt.Data(values=[{"base": base}])).encode(x="base:Q")
    return alt.layer(
        rule.mark_rule(strokeDash=[4, 4], color="#777777"),
        rule.mark_text(text="untouched base", align="left", dx=4, dy=height / 2 - 5, fontSize=10, color="#777777"),
        chart.mark_rule(strokeWidth=2).encode(x=alt.X(f"{name}_low:Q", title=METRICS[metric]), x2=f"{name}_high:Q"),
        chart.mark_point(filled=True, size=110, opacity=1).encode(x=x, shape=shape),
    ).properties(width=330, height=height)


def curves(folder: Folder, names: Names) -> list[dict[str, Any]]:
    """Return the validation losses of every final run as rows: method, condition, run, step, loss."""
    points = []
    for run in folder.plan().runs:
        if run.kind == "entry":
            method, condition = names[run.entry]
            facts = {"method": method, "condition": CONDITIONS[condition], "run": f"{folder.path.name}/{run.id}"}
            curve = folder.run(run.id).curve()
            points += [{**facts, "step": row.step, "loss": row.validation_loss} for row in curve]
    return points


def curves_picture(points: list[dict[str, Any]], columns: int) -> alt.FacetChart:
    """Return the validation loss over the steps, a panel a method."""
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=alt.OverlayMarkDef(size=25))
        .encode(
            x=alt.X("step:Q", title="optimizer steps"),
            y=alt.Y("loss:Q", title="validation loss", scale=alt.Scale(zero=False)),
            color=alt.Color("condition:N", title=None, sort=list(CONDITIONS.values()),
                            scale=alt.Scale(range=COLOURS), legend=alt.Legend(orient="top")),
            detail="run:N",
        )
        .properties(width=210, height=170)
        .facet(facet=alt.Facet("method:N", title=None, sort=order_of(points)), columns=columns)
    )  # fmt: skip


def write_picture(name: str, chart: alt.TopLevelMixin) -> None:
    """Write a chart into docs as SVG on white, for light and dark pages alike."""
    spec = chart.configure(background="white", font="sans-serif").configure_view(strokeOpacity=0.2).to_json()
    (DOCS / name).write_text(vl_convert.vegalite_to_svg(spec))


def rankings(table: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the methods from best to worst under each condition, a row a metric."""
    lines = ["| from best to worst | at one shared rate | each at its own |", "|---|---|---|"]
    for metric, heading in (("test/loss", "test loss"), ("test/rougeL", "ROUGE-L")):
        lines.append(f"| {heading} | {ranking(table, 'shared', metric)} | {ranking(table, 'tuned', metric)} |")
    return "\n".join(lines)


def ranking(table: list[dict[str, Any]], condition: str, metric: str) -> str:
    """Return the methods under one condition from best to worst, with the mean of each."""
    group = [row for row in table if row["condition"] == CONDITIONS[condition]]
    group.sort(key=lambda row: row[f"{metric}/mean"], reverse=metric != "test/loss")
    return ", ".join(f"{row['method']} {row[f'{metric}/mean']:.3f}" for row in group)


def chosen_rates(table: list[dict[str, Any]]) -> str:
    """Return each method's tuned learning rate."""
    tuned = [row for row in table if row["condition"] == CONDITIONS["tuned"]]
    return ", ".join(f"{row['method']} {row['rate']:.2g}" for row in tuned)


def without(table: str, headings: Collection[str] = TIMED) -> str:
    """Return the Markdown table without some columns; by default the costs, for a machine that had other work."""
    lines = [line for line in table.splitlines() if line.strip()]
    grid = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    keep = [i for i, heading in enumerate(grid[0]) if heading not in headings]
    kept = ["| " + " | ".join(row[i] for i in keep) + " |" for row in grid]
    return "\n".join([*kept, "", *(f"{line}\n" for line in lines if not line.startswith("|"))]).rstrip()


def dated(verdicts: str) -> str:
    """Return a paragraph that says how verdicts were corrected that quote Holm's correction; nothing for later ones."""
    if "Holm's correction" not in verdicts:
        return ""
    return f"\n{EARLIER}\n"

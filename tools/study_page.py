"""Write docs/study.md and its pictures from the finished bakeoff of recipes/study-embedded.yaml.

`python tools/study_page.py bakeoffs/study-embedded`. Numbers and the verdict come from the run folder alone; a ranking
is by the mean over seeds, with the intervals beside it.
"""

import sys
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from bakeoff.analysis.table import markdown_table
from bakeoff.api import load_results
from bakeoff.store.run_folder import Folder

DOCS = Path(__file__).parent.parent / "docs"
METHODS = {"prompt": "prompt tuning", "last_layers": "last layers", "lora": "LoRA"}
CONDITIONS = {"shared": "one shared rate, 5e-5", "tuned": "its own tuned rate"}
COLOURS = ["#d55e00", "#0072b2"]
METRICS = {"test/loss": "test loss (nats a token; lower is better)", "test/rougeL": "test ROUGE-L F (higher is better)"}


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row an entry: method, condition and every metric's mean with its interval."""
    found = []
    for name, entry in document["entries"].items():
        method, condition = name.rsplit("_", 1)
        spans = {metric: entry["metrics"][metric] for metric in METRICS}
        found.append({
            "method": METHODS[method], "condition": CONDITIONS[condition], "rate": entry["learning_rate"],
            **{f"{metric}/{k}": v for metric, span in spans.items() for k, v in span.items()},
        })  # fmt: skip
    return found


def panel(table: list[dict[str, Any]], metric: str, base: float) -> alt.LayerChart:
    """Return one metric: a point with its interval for each method under each condition, and the base as a line."""
    data = [{k.replace("/", "_").replace(".", "_"): v for k, v in row.items()} for row in table]
    name = metric.replace("/", "_")
    chart = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("method:N", title=None, sort=list(METHODS.values())),
        yOffset=alt.YOffset("condition:N", sort=list(CONDITIONS.values())),
        color=alt.Color("condition:N", title=None, sort=list(CONDITIONS.values()),
                        scale=alt.Scale(range=COLOURS), legend=alt.Legend(orient="top")),
    )  # fmt: skip
    shape = alt.Shape("condition:N", sort=list(CONDITIONS.values()), legend=None)
    x = alt.X(f"{name}_mean:Q", title=METRICS[metric], scale=alt.Scale(zero=False))
    rule = alt.Chart(alt.Data(values=[{"base": base}])).encode(x="base:Q")
    return alt.layer(
        rule.mark_rule(strokeDash=[4, 4], color="#777777"),
        rule.mark_text(text="untouched base", align="left", dx=4, dy=70, fontSize=10, color="#777777"),
        chart.mark_rule(strokeWidth=2).encode(x=alt.X(f"{name}_low:Q", title=METRICS[metric]), x2=f"{name}_high:Q"),
        chart.mark_point(filled=True, size=110, opacity=1).encode(x=x, shape=shape),
    ).properties(width=330, height=150)


def curves(folder: Folder, document: dict[str, Any]) -> alt.FacetChart:
    """Return the validation loss over the steps of every final run, a panel a method."""
    points = []
    for run in folder.plan().runs:
        if run.kind == "entry":
            method, condition = run.entry.rsplit("_", 1)
            facts = {"method": METHODS[method], "condition": CONDITIONS[condition], "run": run.id}
            curve = folder.run(run.id).curve()
            points += [{**facts, "step": row["step"], "loss": row["validation/loss"]} for row in curve]
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
        .facet(column=alt.Column("method:N", title=None, sort=list(METHODS.values())))
    )  # fmt: skip


def write_picture(name: str, chart: alt.TopLevelMixin) -> None:
    """Write a chart into docs as SVG on white, for light and dark pages alike."""
    spec = chart.configure(background="white", font="sans-serif").configure_view(strokeOpacity=0.2).to_json()
    (DOCS / name).write_text(vl_convert.vegalite_to_svg(spec))


def ranking(table: list[dict[str, Any]], condition: str, metric: str) -> str:
    """Return the methods under one condition from best to worst, with the mean of each."""
    group = [row for row in table if row["condition"] == CONDITIONS[condition]]
    group.sort(key=lambda row: row[f"{metric}/mean"], reverse=metric != "test/loss")
    return ", ".join(f"{row['method']} {row[f'{metric}/mean']:.3f}" for row in group)


def page(folder: Folder, document: dict[str, Any], table: list[dict[str, Any]]) -> str:
    """Return the page."""
    where, plan = folder.environment(), folder.plan()
    splits = {name: split.examples for name, split in plan.data.splits.named()}
    steps = next(iter(plan.entries.values())).steps
    chosen = ", ".join(f"{r['method']} {r['rate']:.2g}" for r in table if r["condition"] == CONDITIONS["tuned"])
    rankings = "\n".join(
        f"| {heading} | {ranking(table, 'shared', metric)} | {ranking(table, 'tuned', metric)} |"
        for metric, heading in (("test/loss", "test loss"), ("test/rougeL", "ROUGE-L"))
    )
    trials = plan.entries["lora_tuned"].trials
    return f"""# The study, done properly

bakeoff grew out of a study of three methods that gave each the same learning rate, 5e-5, and one seed. Here are the
same three methods (soft prompts of 6 virtual tokens, the last block with the head, LoRA of rank 128 on the
attention's input) twice: at that shared rate, and with {trials} trials per method over its own range. Each has
three seeds. The base is the small model that comes with bakeoff, and the task is that of the demo: to write the
summary line of a docstring ({splits["train"]:,} training, {splits["validation"]} validation and {splits["test"]}
test examples, {steps} steps). Everything below was written by
`bakeoff run recipes/study-embedded.yaml` and `python tools/study_page.py bakeoffs/study-embedded`, on
{where["date"][:10]} ({where["cores"]} cores, {where["processor"]}, {plan.precision}, no GPU). Other work ran on
the machine, so times are left out.

![test loss and ROUGE-L of three methods at one shared rate and at their own](study.svg)

| from best to worst | at one shared rate | each at its own |
|---|---|---|
{rankings}

Learning rates chosen by validation loss: {chosen}.

> {document["verdict"]["text"]}

![validation loss over the steps](study-curves.svg)

{columns(markdown_table(document))}
"""


def columns(table: str) -> str:
    """Return the Markdown table without its costs in seconds: other work ran on the machine."""
    lines = [line for line in table.splitlines() if line.strip()]
    grid = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line.startswith("|")]
    timed = {"train s", "tokens/s", "tuning s", "peak memory"}
    keep = [i for i, heading in enumerate(grid[0]) if heading not in timed]
    kept = ["| " + " | ".join(row[i] for i in keep) + " |" for row in grid]
    return "\n".join([*kept, "", *(f"{line}\n" for line in lines if not line.startswith("|"))]).rstrip()


def main() -> None:
    """Write page and pictures."""
    folder = Folder(sys.argv[1])
    document = load_results(folder.path).document
    table = rows(document)
    base = document["baselines"]["base"]["metrics"]
    panels = [panel(table, metric, base[metric]["mean"]) for metric in METRICS]
    write_picture("study.svg", alt.hconcat(*panels).resolve_scale(color="shared"))
    write_picture("study-curves.svg", curves(folder, document))
    (DOCS / "study.md").write_text(page(folder, document, table))


if __name__ == "__main__":
    main()

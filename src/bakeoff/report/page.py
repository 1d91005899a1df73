"""The HTML page: one file that opens from disk, with no script, no network and nothing that is not in the records."""

import base64
import itertools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bakeoff.evaluation.metrics import value_of
from bakeoff.evaluation.verdict import PREFERENCES
from bakeoff.records import Folder, read_jsonl
from bakeoff.report import charts
from bakeoff.report.differences import difference_rows, recommendation
from bakeoff.report.facts import sections
from bakeoff.report.table import (
    NOT_BETTER,
    best_values,
    columns,
    csv_table,
    edge_note,
    failed_checks,
    failure,
    markdown_table,
    rows_of,
    standing,
)

HERE = Path(__file__).parent
SAMPLES = 8


def render(folder: Folder, results: dict[str, Any]) -> str:
    """Return the page of a bakeoff, from whatever has finished so far."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    csv = csv_table(results)
    verdict = results["verdict"]
    return environment.get_template("page.html.j2").render(
        name=results["name"],
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        headline=verdict["headline"],
        details=verdict["text"].removeprefix(verdict["headline"]).strip(),
        setting=setting(results),
        columns=columns(results),
        rows=table_rows(results),
        trunk=[
            f"{name} {row['costs']['trunk_seconds']:.1f} s"
            for name, row in results["entries"].items()
            if row["costs"].get("trunk_seconds", 0) and row["costs"]["trunk_seconds"] > 0.05
        ],
        score_signature=results["score_signature"],
        heading=verdict["heading"],
        ranked_by=f"{verdict['heading']}, points" if verdict["bounded"] else verdict["heading"],
        differences=difference_rows(verdict),
        recommendations=[recommendation(results, p) for p in PREFERENCES] if verdict["best"] else [],
        cost_charts=cost_charts(results),
        curves=loss_curves(folder, results),
        sweeps=sweeps(results),
        edge_notes=[note for name, row in results["entries"].items() if (note := edge_note(name, row))],
        not_converged=[n for n, row in results["entries"].items() if row["converged"] is False],
        not_better=[n for n, row in results["entries"].items() if row["improved"] is False],
        not_better_text=NOT_BETTER,
        samples=samples(folder, results),
        facts=sections(results),
        config=folder.config_file.read_text(encoding="utf-8"),
        csv=csv,
        csv_base64=base64.b64encode(csv.encode()).decode(),
        markdown=markdown_table(results),
    )


def setting(results: dict[str, Any]) -> str:
    """Return in a line what was compared on what."""
    splits = results["data"]["splits"]
    counts = ", ".join(f"{facts['examples']:,} {split}" for split, facts in splits.items())
    model = results["model"]
    date = results["environment"].get("date", "")[:10]
    entries = f"{len(results['entries'])} entries" if len(results["entries"]) > 1 else "1 entry"
    return " · ".join(
        part
        for part in (
            f"{entries} on {model['name']} ({model['total_parameters']:,} parameters)",
            f"{results['data']['source']}: {counts} examples",
            date,
        )
        if part
    )


def table_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows as text, the best value of each column marked."""
    best = best_values(results)
    rows = []
    for name, row in rows_of(results).items():
        cells = [
            {
                "text": column.text(row),
                "interval": column.interval_text(row),
                "best": row["kind"] == "entry" and column.key in best and column.value(row) == best[column.key],
            }
            for column in columns(results)
        ]
        rows.append(
            {
                "name": name,
                "kind": row["kind"],
                "tag": standing(name, results),
                "failed_checks": len(failed_checks(row)),
                "failure": failure(row),
                "cells": cells,
            }
        )
    return rows


def cost_charts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of ROUGE-L against what an entry trains and how long it takes."""
    score = results["verdict"]["metric"]
    points = [
        {
            "entry": name,
            "trainable_parameters": row["trainable_parameters"],
            "train_seconds": row["costs"].get("train_seconds"),
            "score": row["metrics"][score]["mean"],
            **{end: row["metrics"][score].get(end, row["metrics"][score]["mean"]) for end in ("low", "high")},
        }
        for name, row in results["entries"].items()
        if row["status"] == "done"
    ]
    levels = {n: row["metrics"][score]["mean"] for n, row in results["baselines"].items() if row["status"] == "done"}
    drawn = []
    for cost, heading, log in (
        ("trainable_parameters", "trainable parameters", True),
        ("train_seconds", "seconds of optimizer steps", False),
    ):
        svg = charts.quality_cost(points, levels, cost, heading, log)
        label = f"{results['verdict']['heading']} against {heading}: " + ", ".join(
            f"{p['entry']} {p['score']:.3f} at {p[cost]:,.0f}" for p in points if p[cost] is not None
        )
        drawn += [{"svg": Markup(svg), "label": label}] if svg else []
    return drawn


def loss_curves(folder: Folder, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a drawing of every run's curves for each entry that has validated."""
    rows: list[dict[str, Any]] = []
    best: list[dict[str, Any]] = []
    for name, row in results["entries"].items():
        for run_id in row["runs"]:
            points = [
                {"entry": name, "run": run_id, "epoch": p["epoch"], "split": split, "loss": p[f"{split}/loss"]}
                for p in folder.run(run_id).curve()
                for split in ("train", "validation")
                if f"{split}/loss" in p
            ]
            rows += points
            validations = [p for p in points if p["split"] == "validation"]
            best += [min(validations, key=lambda p: p["loss"])] if validations else []
    lowest = {name: min(b["loss"] for b in best if b["entry"] == name) for name in {b["entry"] for b in best}}
    return [
        {"svg": Markup(svg), "label": f"Loss of {name} by epoch; lowest validation loss {lowest[name]:.3f}"}
        for name, svg in charts.curves(rows, best, list(results["entries"])).items()
    ]


def sweeps(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a drawing for each searched field of each tuned entry, and its trials in words."""
    drawn = []
    for number, (name, row) in enumerate(results["entries"].items()):
        trials = row["tuning"]["trials"]
        chosen = row["tuning"]["chosen"]
        for field, span in row["search"].items() if chosen else ():
            points = [
                {"value": t["settings"][field], "loss": t["validation_loss"], "status": t["status"],
                 "chosen": t["settings"] == chosen}
                for t in trials if t["validation_loss"] is not None and t["status"] != "failed"
            ]  # fmt: skip
            label = f"{name}: validation loss by {field}: " + ", ".join(
                f"{p['loss']:.3f} at {p['value']:.2g} ({'chosen' if p['chosen'] else p['status']})" for p in points
            )
            failed = [f"{t['settings'][field]:.2g}: {t['error']}" for t in trials if t["status"] == "failed"]
            svg = charts.sweep(points, name, field, span["scale"] == "log", number)
            drawn.append({"svg": Markup(svg), "label": label, "failed": failed})
    return drawn


def samples(folder: Folder, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return evenly spaced test examples with every row's output of its first finished run, entries first."""
    outputs = {
        name: predictions
        for name, row in rows_of(results).items()
        if (predictions := next((p for i in row["runs"] if (p := folder.run(i).predictions())), None))
    }
    if not outputs:
        return []
    total = results["data"]["splits"]["test"]["examples"]
    count = min(SAMPLES, total)
    wanted = [i * total // count for i in range(count)]
    examples = dict(zip(itertools.count(), read_jsonl(folder.examples_file("test"))))
    return [
        {
            "id": examples[i]["id"],
            "document": examples[i]["document"],
            "reference": examples[i]["summary"],
            "outputs": [
                {"name": name, "text": rows[i]["output"], "score": value_of(rows[i][results["primary"]])}
                for name, rows in outputs.items()
            ],
        }
        for i in wanted
    ]

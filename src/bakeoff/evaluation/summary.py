"""Results: the records of a bakeoff's runs become results.json. Every view (terminal, report, CSV) reads that."""

from typing import Any

import numpy

from bakeoff.config import load_config
from bakeoff.evaluation.neutral import add_forgetting
from bakeoff.evaluation.rouge import SIGNATURE, TYPES
from bakeoff.evaluation.statistics import Array, Resamples, summary
from bakeoff.evaluation.verdict import make_verdict
from bakeoff.records import Folder, Run, RunResult


def summarize(folder: Folder) -> dict[str, Any]:
    """Return the content of results.json from whatever runs have finished so far.

    Scores are means over seeds; intervals are 95 % bootstrap intervals over test documents of the seeds' average.
    """
    plan = folder.plan()
    config = load_config(folder.config_file)
    runs = folder.runs()
    results = {run.id: folder.run(run.id).result() for run in runs}
    weights = Resamples(plan["data"]["splits"]["test"]["examples"])
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.entry, []).append(run)
    rows = {name: entry_row(folder, group, results, weights) for name, group in groups.items()}
    for name, row in rows.items():
        row |= {k: v for k, v in plan["entries"].get(name, {}).items() if k not in row or row[k] is None}
    rows |= {name: not_run_row(name, reason) for name, reason in plan["not_run"].items()}
    add_forgetting(rows)
    scores = {
        name: f for name, group in groups.items() if (f := example_scores(folder, group, results, "rougeL")) is not None
    }
    compared = {name: row for name, row in rows.items() if row["status"] != "not run"}
    done = [row["status"] == "done" for row in compared.values()]
    return {
        "name": plan["name"],
        "status": "done" if all(done) else ("failed" if not any(done) else "incomplete"),
        "model": plan["model"],
        "data": plan["data"],
        "precision": plan["precision"],
        "max_tokens": plan["max_tokens"],
        "output_tokens": plan["output_tokens"],
        "protocol": config.protocol.model_dump(),
        "generation": config.generation.model_dump(),
        "template": config.template,
        "rouge_signature": SIGNATURE,
        "entries": {n: r for n, r in rows.items() if r["kind"] == "entry"},
        "baselines": {n: rows[n] for n in config.baselines},
        "verdict": make_verdict(compared, scores, weights),
        "environment": folder.environment(),
    }


def entry_row(
    folder: Folder, group: list[Run], results: dict[str, RunResult | None], weights: Resamples
) -> dict[str, Any]:
    """Return one entry's or baseline's row: status, counts, metrics with intervals, costs averaged over its seeds."""
    done = [r for run in group if (r := results[run.id]) and r.status == "done"]
    failed = [r for run in group if (r := results[run.id]) and r.status == "failed"]
    ended = [*done, *failed]
    status = "failed" if failed else "done" if len(done) == len(group) else "missing"
    row: dict[str, Any] = {
        "kind": group[0].kind,
        "method": group[0].method,
        "settings": group[0].settings,
        "status": status,
        "error": failed[0].error if failed else None,
        "seeds": len(done),
        "runs": [run.id for run in group],
        "metrics": metrics(folder, group, results, weights) if done else {},
        "costs": averages([r.costs for r in done]),
        "checks": {k: all(r.checks[k] for r in ended if k in r.checks) for r in ended for k in r.checks},
        "check_notes": {
            k: note if len(group) == 1 else f"seed {r.run.seed}: {note}"
            for r in reversed(ended)  # so that the first run's note stays
            for k, note in r.check_notes.items()
        },
    }
    row["converged"] = all(r.best_step != r.steps for r in done) if done and group[0].kind == "entry" else None
    for name in ("trainable_parameters", "total_parameters", "learning_rate", "steps", "best_step"):
        row[name] = getattr(done[0], name) if done else None
    return row


def not_run_row(name: str, reason: str) -> dict[str, Any]:
    """Return the row of a baseline that cannot be run here: nothing is measured, and nothing failed."""
    nothing = dict.fromkeys(
        ("converged", "trainable_parameters", "total_parameters", "learning_rate", "steps", "best_step")
    )
    return {
        "kind": "baseline", "method": name, "settings": {}, "status": "not run", "error": reason, "seeds": 0,
        "runs": [], "metrics": {}, "costs": {}, "checks": {}, "check_notes": {}, **nothing,
    }  # fmt: skip


def metrics(
    folder: Folder, group: list[Run], results: dict[str, RunResult | None], weights: Resamples
) -> dict[str, dict[str, float]]:
    """Return {"split/name": {"mean", "low", "high"}}; the interval is left out where no per-example scores exist."""
    done = [r for run in group if (r := results[run.id]) and r.status == "done"]
    table: dict[str, dict[str, float]] = {
        n: {"mean": v} for n, v in averages([r.metrics for r in done]).items() if v is not None
    }
    for name in TYPES:
        scores = example_scores(folder, group, results, name)
        if scores is not None:
            table[f"test/{name}"] = summary(scores, numpy.ones_like(scores), weights)
    losses = example_losses(folder, group, results)
    if losses is not None:
        table["test/loss"] = summary(*losses, weights)
    return table


def example_scores(folder: Folder, group: list[Run], results: dict[str, RunResult | None], name: str) -> Array | None:
    """Return the F measure of each test example, averaged over an entry's finished seeds, (documents,)."""
    tables = [
        [row[name]["f"] for row in folder.run(run.id).predictions()]
        for run in group
        if (r := results[run.id]) and r.status == "done"
    ]
    return numpy.mean(tables, axis=0) if tables else None


def example_losses(
    folder: Folder, group: list[Run], results: dict[str, RunResult | None]
) -> tuple[Array, Array] | None:
    """Return (summed loss, target tokens) of each test example, the losses averaged over an entry's seeds."""
    tables = [folder.run(run.id).predictions() for run in group if (r := results[run.id]) and r.status == "done"]
    if not tables or "loss" not in tables[0][0]:
        return None
    losses = numpy.mean([[row["loss"] for row in table] for table in tables], axis=0)
    return losses, numpy.array([row["tokens"] for row in tables[0]], dtype=float)


def averages(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean of every key over rows; None where a row lacks it or did not measure it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    columns: dict[str, list[Any]] = {key: [row.get(key) for row in rows] for key in keys}
    return {key: None if None in column else float(numpy.mean(column)) for key, column in columns.items()}

"""The plan as `bakeoff plan` prints it."""

from typing import Any

from rich import markup
from rich.table import Table

from bakeoff.report.table import NO_SUCH_THING, counted, rate


def plan_table(plan: dict[str, Any]) -> Table:
    """Return a plan's entries for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("entry")
    for heading in ("method", "trainable", "of", "%", "steps", "tuning", "trials", "searched or fixed rate"):
        table.add_column(heading, justify="right")
    for name, row in plan["entries"].items():
        counts = (f"{row['trainable_parameters']:,}", f"{row['total_parameters']:,}", f"{row['trainable_percent']:.4f}")
        tuning = (row["tuning"], str(row["trials"] or NO_SUCH_THING), searched(row))
        table.add_row(markup.escape(name), row["method"], *counts, f"{row['steps']:,}", *tuning)
    return table


def searched(row: dict[str, Any]) -> str:
    """Return the ranges that a planned entry's trials are drawn from, or its learning rate where that is fixed."""
    ranges = [f"{name} {span['low']:.3g} to {span['high']:.3g}" for name, span in row["search"].items()]
    return ", ".join([*ranges, *([] if row["learning_rate"] is None else [rate(row["learning_rate"])])])


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Return what else a plan tells: how many runs, the splits with their cut documents, and findings."""
    lines = [f"{counted(len(plan['runs']), 'run')}, {counted(total_steps(plan), 'optimizer step')} in all"]
    tuned = [row for row in plan["entries"].values() if row["trials"]]
    if tuned:
        trials, steps = tuned[0]["trials"], tuned[0]["trial_steps"]
        lines.append(
            f"{counted(trials, 'trial')} for each tuned entry, {counted(steps, 'step')} together; the chosen one is "
            "its first seed's run. A choice on the edge of its range has one trial more, of "
            f"{counted(tuned[0]['steps'], 'step')}"
        )
    lines += [f"{name} not run: {reason}" for name, reason in plan["not_run"].items()]
    for split, facts in plan["data"]["splits"].items():
        cut = f", {facts['cut_documents']:.1%} of documents cut" if "cut_documents" in facts else ""
        lines.append(f"{split}: {counted(facts['examples'], 'example')}{cut}")
    return lines + plan["data"]["findings"]


def total_steps(plan: dict[str, Any]) -> int:
    """Return the optimizer steps of all runs without extensions; a tuned entry's first seed adopts its trial's."""
    finals = sum(run["steps"] for run in plan["runs"] if run["kind"] == "entry")
    return finals + sum(row["trial_steps"] - row["steps"] for row in plan["entries"].values() if row["trials"])

"""The trials of an entry: lowest validation loss against a searched field, with budget and edge marks."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from bakeoff.analysis.columns import counted
from bakeoff.analysis.remarks import edge_note
from bakeoff.report.charts.drawing import INK, TIP, Figure, Point, data, draw, heading, hue, safe_name
from bakeoff.store.plan_document import Choices, Span
from bakeoff.store.results_document import ResultsDocument, TrialRow, Tuning
from bakeoff.tuning.labels import setting_text

WIDTH, HEIGHT = 270, 190
FAILURES = 4  # failed trials that are told one by one


def sweeps(results: ResultsDocument) -> list[Figure]:
    """Return a figure for each searched field of each entry that has chosen."""
    figures = []
    for number, (name, row) in enumerate(results.entries.items()):
        tuned = row.tuning
        chosen = tuned.chosen if tuned else None
        if tuned is None or chosen is None:
            continue
        for place, (field, span) in enumerate(row.search.items(), start=1):
            points = [trial_point(t, field, chosen) for t in tuned.trials]
            shown = [p for p in points if p["loss"] is not None and p["status"] != "failed"]
            if not shown:
                continue
            failed = failures(name, field, [t for t in tuned.trials if t.status == "failed"])
            edge = edge_note(name, row)
            label = f"{name}: validation loss by {field}: " + "; ".join(p["tip"] for p in shown)
            title = heading(
                name, budget(tuned) + (f" · edge: {edge_word(tuned, field)}" if edge else ""), bad=bool(edge)
            )
            svg = chart(shown, field, span, number, title)
            rows = [{k: p[k] for k in ("trial", "value", "loss", "steps", "status", "chosen")} for p in points]
            notes = failed + ((f"Edge: {edge}.",) if edge else ())
            figures.append(
                Figure(
                    f"sweep-{number + 1}-{place}-{safe_name(field)}",
                    f"Trials of {name} over {field}",
                    label,
                    svg,
                    rows,
                    number,
                    notes,
                )
            )
    return figures


def trial_point(trial: TrialRow, field: str, chosen: dict[str, Any]) -> Point:
    """Return one trial as a point."""
    value, loss, is_chosen = trial.settings[field], trial.validation_loss, trial.settings == chosen
    said = "chosen" if is_chosen else trial.status
    after = f" after {counted(trial.steps, 'step')}" if trial.steps else ""
    tip = (
        f"{field} {setting_text(value)}: "
        + ("no loss" if loss is None else f"validation loss {loss:.3f}")
        + f"{after}, {said}"
    )
    return {"trial": trial.trial, "value": value, "loss": loss, "steps": trial.steps, "status": trial.status,
            "chosen": is_chosen, "tip": tip}  # fmt: skip


def failures(name: str, field: str, failed: Sequence[TrialRow]) -> tuple[str, ...]:
    """Return one line for each of the first failed trials, and one for the number of others."""
    lines = [f"Failed trial of {name} at {setting_text(t.settings[field])}: {t.error}" for t in failed[:FAILURES]]
    more = len(failed) - FAILURES
    return (*lines, f"And {counted(more, 'failed trial')} more.") if more > 0 else tuple(lines)


def budget(tuned: Tuning) -> str:
    """Return the number of an entry's trials, and of the steps that they took together."""
    trials = tuned.trials
    return f"{counted(len(trials), 'trial')}, {counted(sum(t.steps or 0 for t in trials), 'step')}"


def edge_word(tuned: Tuning, field: str) -> str:
    """Return at which end of the tried values an entry's best trial is; if of another field, also which field."""
    edges = tuned.edge
    return f"{edges[field]}est tried" if field in edges else " and ".join(edges)


def across(points: list[Point], field: str, span: Span | Choices) -> alt.X:
    """Return the axis of a searched field, on its scale; values without an order each have a place of their own."""
    title, ticks = field.replace("_", " "), sorted({p["value"] for p in points})
    if isinstance(span, Choices):
        return alt.X("value:N", title=title, sort=span.values, axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(type=span.scale, zero=False, nice=False, padding=26)
    form = "d" if all(isinstance(tick, int) for tick in ticks) else ".2~g"
    axis = alt.Axis(values=ticks, format=form, grid=False, labelOverlap="greedy")
    return alt.X("value:Q", title=title, scale=scale, axis=axis)


def chart(points: list[Point], field: str, span: Span | Choices, number: int, title: alt.TitleParams) -> str:
    """Return one panel: full points went to the end, hollow ones were stopped early, the chosen one has a ring."""
    x = across(points, field, span)
    y = alt.Y("loss:Q", title="validation loss", scale=alt.Scale(zero=False, padding=14), axis=alt.Axis(tickCount=5))
    rows = {
        "all": [] if isinstance(span, Choices) else sorted(points, key=lambda p: p["value"]),
        "ended": [p for p in points if p["status"] == "done"],
        "stopped": [p for p in points if p["status"] != "done"],
        "chosen": [p for p in points if p["chosen"]],
    }
    colour = hue(number)
    layers = [
        data("all").mark_line(
            color=colour, opacity=0.35, strokeWidth=1.5, aria=False
        ).encode(x=x, y=y),
        data("stopped").mark_point(filled=False, size=80, strokeWidth=2, color=colour).encode(
            x=x, y=y, description=TIP
        ),
        data("ended").mark_point(filled=True, size=80, opacity=1, color=colour).encode(x=x, y=y, description=TIP),
        data("chosen").mark_point(filled=False, size=260, strokeWidth=2, color=INK).encode(
            x=x, y=y, description=TIP
        ),
    ]  # fmt: skip
    return draw(layers, rows, (WIDTH, HEIGHT), title)

"""The HTML page: one file that opens from disk and loads nothing. Its script only adds conveniences."""

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from bakeoff.analysis.columns import best_values, columns, is_best
from bakeoff.analysis.remarks import NOT_BETTER, NOT_CONVERGED, failed_checks, failure, standing
from bakeoff.analysis.table import csv_table, markdown_table
from bakeoff.errors import listed
from bakeoff.report.confusion import confusions
from bakeoff.report.differences import choices, difference_rows
from bakeoff.report.examples import samples
from bakeoff.report.facts import sections
from bakeoff.report.figures import Figures
from bakeoff.report.preferences import preference_rows
from bakeoff.report.source import Source
from bakeoff.report.theme import colours, switches
from bakeoff.report.view import view_note
from bakeoff.store.results_document import ResultsDocument

HERE = Path(__file__).parent
# The shapes of charts/drawing.py for the swatches beside names, in a box from -6 to 6.
SWATCHES = (
    "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z", "M-4.5-4.5H4.5V4.5H-4.5Z", "M0-5.5L5.5 4.5H-5.5Z", "M0-6L5 0L0 6L-5 0Z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z", "M0 5.5L5.5-4.5H-5.5Z", "M5.5 0L-4.5 5.5V-5.5Z",
)  # fmt: skip
TITLES = (
    ("results", "Results"), ("quality-against-cost", "Quality against cost"), ("loss-curves", "Loss curves"),
    ("sweeps", "Learning-rate sweep"), ("tuning-budget", "Tuning budget"), ("differences", "Differences"),
    ("preferences", "Preferences"), ("confusion", "Labels"), ("outputs", "Outputs"), ("costs", "Costs"),
)  # fmt: skip


def render(source: Source, figures: Figures, beside: str) -> str:
    """Return the page of a bakeoff, from everything that has finished so far; `beside` is the folder of its figures."""
    results, view = source.results, source.shown().results
    csv, verdict, facts, shown = csv_table(results), results.verdict, sections(results), samples(source.shown())
    tables = confusions(source.shown())
    entries, differences = list(view.entries), difference_rows(view.verdict)
    empty = empty_sections(figures) | {
        "preferences": not results.preferences, "differences": not differences, "confusion": not tables
    }  # fmt: skip
    style = colours(":root", len(entries)) + (HERE / "page.css").read_text(encoding="utf-8")
    return page_template().render(
        name=results.name,
        css=Markup(style + switches(len(entries), figures.axes)),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        shapes=SWATCHES,
        headline=verdict.headline,
        details=verdict.text.removeprefix(verdict.headline).strip(),
        setting=setting(results),
        notes=results.notes,
        contents=[(i, title) for i, title in TITLES if not empty.get(i)] + [(f["id"], f["title"]) for f in facts],
        choices=choices(results) if verdict.best else [],
        entries=entries,
        numbers={name: number for number, name in enumerate(entries)},
        left_out=view_note(view, verdict.heading),
        columns=columns(results),
        rows=table_rows(results),
        trunk=trunk_times(results),
        score_signature=results.score_signature,
        heading=verdict.heading,
        bounded=verdict.bounded,
        ranked_by=f"{verdict.heading}, points" if verdict.bounded else verdict.heading,
        differences=differences,
        preferences=preference_rows(results),
        figures=figures,
        beside=beside,
        not_converged=listed([n for n, row in results.entries.items() if row.converged is False]),
        not_converged_text=NOT_CONVERGED,
        not_better=listed([n for n, row in results.entries.items() if row.improved is False]),
        not_better_text=NOT_BETTER,
        confusions=tables,
        samples=shown,
        compared=compared(view, [output["name"] for output in shown[0]["outputs"]] if shown else []),
        test_examples=results.data.splits.test.examples,
        facts=facts,
        config=source.config,
        csv=csv,
        csv_base64=base64.b64encode(csv.encode()).decode(),
        markdown=markdown_table(results),
    )


def empty_sections(figures: Figures) -> dict[str, bool]:
    """Return for each section of figures whether it has none."""
    return {
        "quality-against-cost": not figures.axes.figures, "sweeps": not figures.sweeps,
        "tuning-budget": not figures.budgets, "costs": not figures.bars,
    }  # fmt: skip


def page_template(name: str = "page.html.j2") -> Template:
    """Return a page's template, which escapes its values."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template(name)


def trunk_times(results: ResultsDocument) -> str:
    """Return how long computing the frozen blocks once took, for each entry that stored them."""
    seconds = {name: row.costs.get("trunk_seconds") or 0.0 for name, row in results.entries.items()}
    return listed([f"{name} {value:.1f} s" for name, value in seconds.items() if value > 0.05])


def unbroken(text: str) -> Markup:
    """Return the text, escaped, with names such as ROUGE-L kept on one line."""
    return Markup(re.sub(r"ROUGE-\w+", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def compared(results: ResultsDocument, names: list[str]) -> list[str]:
    """Return the two rows that are compared first: the best entry and the next one, or any with outputs."""
    verdict = results.verdict
    ranked = [verdict.best, *(p.second for p in verdict.pairs if p.first == verdict.best)]
    return [name for name in dict.fromkeys([*ranked, *names]) if name in names][:2] + [""] * 2


def setting(results: ResultsDocument) -> str:
    """Return in one line what was compared on which data."""
    counts = ", ".join(f"{facts.examples:,} {split}" for split, facts in results.data.splits.named())
    model = results.model
    date = results.environment.get("date", "")[:10]
    entries = f"{len(results.entries)} entries" if len(results.entries) > 1 else "1 entry"
    return " · ".join(
        part
        for part in (
            f"{entries} on {model.name} ({model.total_parameters:,} parameters)",
            f"{results.data.source}: {counts} examples",
            date,
        )
        if part
    )


def table_rows(results: ResultsDocument) -> list[dict[str, Any]]:
    """Return the table's rows as text, the best value of each column marked."""
    best = best_values(results)
    rows = []
    for name, row in results.rows.items():
        cells = [
            {
                "text": column.text(row),
                "value": "" if (value := column.value(row)) is None else value,
                "interval": column.interval_text(row),
                "best": is_best(column, row, best),
            }
            for column in columns(results)
        ]
        rows.append(
            {
                "name": name,
                "kind": row.kind,
                "tag": standing(name, results),
                "failed_checks": len(failed_checks(row)),
                "failure": failure(row),
                "cells": cells,
            }
        )
    return rows

"""Results in a notebook: the verdict, a table and two charts. Each element has its colours: notebooks drop styles."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from bakeoff.analysis.columns import shown_columns
from bakeoff.analysis.remarks import failure, standing
from bakeoff.report.charts.drawing import LIGHT, on_any
from bakeoff.report.charts.pairs import pair_figures
from bakeoff.report.charts.quality import costs, qualities, quality_cost
from bakeoff.store.results_document import ResultsDocument

WIDTH = 110  # of a terminal that shows the same columns


def notebook_html(results: ResultsDocument) -> str:
    """Return a fragment of HTML for results.json's content; it needs no style sheet, script or network."""
    results = results.printable()
    columns = shown_columns(results, WIDTH)
    rows = [
        {
            "name": name,
            "colour": LIGHT[number % len(LIGHT)] if row.kind == "entry" else None,
            "tag": standing(name, results),
            "failure": failure(row),
            "cells": [{"text": c.text(row), "interval": c.interval_text(row)} for c in columns],
        }
        for number, (name, row) in enumerate(results.rows.items())
    ]
    figures = [quality_cost(results, qualities(results)[0], costs(results)[0]), *pair_figures(results.verdict)[:1]]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    return environment.get_template("notebook.html.j2").render(
        name=results.name,
        text=results.verdict.text,
        columns=columns,
        rows=rows,
        figures=[(f.label, Markup(on_any(f.svg))) for f in figures if f],
    )

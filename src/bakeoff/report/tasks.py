"""The joint page of several tasks and bases, its figures, and the same as a table for a terminal."""

import os
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table

from bakeoff.analysis.columns import money, size
from bakeoff.analysis.table import cell
from bakeoff.errors import SetupError, listed
from bakeoff.report.charts.tasks import scaled, task_figures, unit
from bakeoff.report.figures import check_own, note_page, write_figures
from bakeoff.report.page import HERE, SWATCHES, page_template
from bakeoff.report.theme import colours
from bakeoff.store.checksums import read_whole
from bakeoff.store.files import write_json, write_text
from bakeoff.store.grid_folder import GridFolder
from bakeoff.store.run_folder import Folder
from bakeoff.store.tasks_document import TaskMeasure, TasksDocument

COSTS = {
    "train_seconds": ("train s", lambda value: f"{value:,.1f}"), "tuning_seconds": ("tuning s", lambda v: f"{v:,.1f}"),
    "peak_bytes": ("peak memory", size), "adapter_bytes": ("adapter", size),
}  # fmt: skip


def write_tasks(document: TasksDocument, page: Path) -> Path:
    """Write the page, its figures and tasks.json in a folder beside it; return the page's path.

    Raises SetupError if the page's file or the figures' folder belongs to something else.
    """
    beside = page.with_name(f"{page.stem}-figures")
    check_own(page, beside)
    shown = document.printable()
    figures = task_figures(shown)
    write_figures(beside, figures, own=False)
    write_json(beside / "tasks.json", document.row())
    write_text(page, render(shown, figures, page))
    note_page(page, beside)
    return page


def stored_tasks(page: Path) -> TasksDocument:
    """Return the document behind a joint page; raise SetupError if it is missing or damaged."""
    file, grid = page.with_name(f"{page.stem}-figures") / "tasks.json", GridFolder(page.parent)
    if not page.exists() and not file.exists() and grid.is_grid():
        begun = listed([path.name for path in grid.cells()])
        raise SetupError(
            f"{grid.path}: has no joint table yet; it is made when an entry has finished in every bakeoff. Begun: "
            f"{begun}. Try: bakeoff run of the grid's config again, or bakeoff show {grid.path}/NAME"
        )
    try:
        return TasksDocument.model_validate_json(read_whole(file)).printable()
    except (OSError, ValueError):
        raise SetupError(f"{file}: missing or damaged. Try: bakeoff report {shlex.quote(str(page.parent))}") from None


def stale(document: TasksDocument, page: Path) -> str | None:
    """Return in a line which bakeoffs of a grid have changed since its joint page was written, or are not on both."""
    grid = GridFolder(page.parent)
    if not grid.is_grid() or grid.page != page:
        return None
    known = {(cell.task, cell.base): cell.records for cell in document.cells}
    now = {path.name: (names, Folder(path).content_hash()) for path, names in grid.cells().items()}
    changed = [name for name, (names, records) in now.items() if known.get(names) != records]
    there = {names for names, _ in now.values()}
    changed += [cell.name for cell in document.cells if (cell.task, cell.base) not in there]
    if not changed:
        return None
    return f"{listed(changed)}: changed since this was written. Try: bakeoff report {shlex.quote(str(page.parent))}"


def render(document: TasksDocument, figures: list[Any], page: Path) -> str:
    """Return the page; links to the pages of the cells are relative to it."""
    style = colours(":root", len(document.entries)) + (HERE / "page.css").read_text(encoding="utf-8")
    links = {
        (c.task, c.base): os.path.relpath(Path(c.folder) / "report.html", page.parent or ".") for c in document.cells
    }
    return page_template("tasks.html.j2").render(
        name=document.name,
        css=Markup(style),
        shapes=SWATCHES,
        document=document,
        tables=[score_table(document, measure) for measure in document.measures],
        costs=cost_table(document),
        cells=[{"cell": c, "link": links[c.task, c.base]} for c in document.cells],
        figures=[[f for f in figures if f.name.startswith(f"{m.name}-")] for m in document.measures],
        beside=f"{page.stem}-figures",
    )


def score_table(document: TasksDocument, measure: TaskMeasure) -> dict[str, Any]:
    """Return a measure's table: an entry's mean, then its score in each cell; the best of each column is marked."""
    columns = [("mean", None)] + [(task, base) for task in document.tasks for base in document.bases]
    values = {
        name: [mean_of(measure, name), *(measure.scores[name][task][base] for task, base in columns[1:] if base)]
        for name in document.entries
    }
    choose = min if measure.ratio else max
    best = [choose(column) for column in zip(*values.values(), strict=True)]
    heads = ["mean", *(f"{task}, {base}" if len(document.bases) > 1 else task for task, base in columns[1:])]
    rows = [
        {"name": name, "tag": standing(measure, name),
         "cells": [{"text": f"{scaled(measure, v):z.1f}" if measure.bounded or measure.ratio else f"{v:z.3g}",
                    "best": v == top} for v, top in zip(row, best, strict=True)]}
        for name, row in values.items()
    ]  # fmt: skip
    return {"title": unit(measure), "heads": heads, "rows": rows, "text": measure.text}


def mean_of(measure: TaskMeasure, name: str) -> float:
    """Return an entry's mean over all cells."""
    every = [value for of in measure.scores[name].values() for value in of.values()]
    return sum(every) / len(every)


def standing(measure: TaskMeasure, name: str) -> str:
    """Return "best", "first of a tie", "tied with the best" or nothing."""
    if name == measure.best:
        return "first of a tie" if measure.tied_with_best else "best"
    return "tied with the best" if name in measure.tied_with_best else ""


def cost_table(document: TasksDocument) -> dict[str, Any]:
    """Return the entries' mean costs over all cells, in money too if all cells have one price."""
    columns = dict(COSTS)
    form = money(document.currency)
    columns |= {"price": ("price", form), "tuning_price": ("tuning price", form)}
    known = [key for key in columns if any(costs[key] is not None for costs in document.costs.values())]
    rows = [
        {"name": name, "cells": ["not measured" if (v := document.costs[name][k]) is None else columns[k][1](v)
                                 for k in known]}
        for name in document.entries
    ]  # fmt: skip
    return {"heads": [columns[key][0] for key in known], "rows": rows}


def tasks_table(document: TasksDocument) -> Table:
    """Return the first measure's table for a terminal."""
    made = score_table(document, document.measures[0])
    table = Table(title=cell(f"{document.name}: {made['title']}"), title_justify="left", box=None, pad_edge=False,
                  header_style="bold")  # fmt: skip
    table.add_column("entry", no_wrap=True)
    for head in made["heads"]:
        table.add_column(cell(head), justify="right")
    for row in made["rows"]:
        cells = [cell(c["text"], "bold" if c["best"] else "") for c in row["cells"]]
        table.add_row(cell(row["name"]), *cells)
    return table

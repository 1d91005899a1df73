"""Writing reports again, and comparing bakeoffs: what needs no driver, and does not import one."""

import os
from collections.abc import Sequence
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.results import load_results
from bakeoff.store.checksums import sealed
from bakeoff.store.files import write_json, writing
from bakeoff.store.lock import in_turn
from bakeoff.store.ownership import is_ours, refuse_inside, refuse_links
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder
from bakeoff.store.signature import signed

REPORT_SECONDS = 60.0  # that another process may take to write the same report


def write_results(folder: Folder) -> tuple[Path, ResultsDocument]:
    """Write results.json, the page, CSV and Markdown from a folder's records; return the page's path and the results.

    A `report` and a `run` take turns: the one that reads the records last also writes last.
    """
    from bakeoff.analysis.summary import summarize
    from bakeoff.report.writing import write_report_of

    folder.runs_folder.mkdir(exist_ok=True)
    with in_turn(folder.runs_folder, REPORT_SECONDS):
        document = summarize(folder)
        write_json(folder.results_file, sealed(signed(document.row())))
        return write_report_of(folder, document), document


def refresh_report(path: str | Path) -> Path:
    """Write the report of a bakeoff that is not running; raise SetupError if it cannot be written."""
    folder = Folder(path)
    folder.plan()
    if not is_ours(folder):
        raise SetupError(f"{folder.path}: contains a plan, but was not made by bakeoff. Try: a complete run folder")
    refuse_links(folder)
    with writing(folder.path, "a copy of the folder that can be written"):
        return write_results(folder)[0]


def compare(paths: Sequence[str | Path], output: str | Path) -> Path:
    """Write one page about the entries of one or several bakeoffs to the file `output`; return its path.

    Raises SetupError if their protocols do not allow it, or if `output` would replace a bakeoff's own page.
    """
    from bakeoff.analysis.comparison import summarize_together
    from bakeoff.report.writing import write_comparison

    folders = [Folder(path) for path in paths]
    page = Path(output)
    places = [os.path.realpath(folder.path) for folder in folders]  # Path.resolve raises where links lead in a circle
    if len(set(places)) < len(folders):
        raise SetupError(f"{folders[0].path}: the folder is given twice. Try: each folder once")
    if page.name in ("", ".."):
        raise SetupError(f"{str(output)!r}: not the name of a page. Try: -o comparison.html")
    refuse_inside(page, "-o comparison.html, or any other place")
    documents = [load_results(folder.path).document for folder in folders]
    together = summarize_together(folders, documents) if len(folders) > 1 else documents[0]
    with writing(page.parent, "-o PAGE.html, another place"):
        return write_comparison(folders, together, page)


def over_tasks(paths: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write the joint page of bakeoffs of several tasks, and bases; return its path.

    Each path is a run folder or a grid's folder. Without `output` the page is report.html in a grid's folder, else
    over-tasks.html here. Raises SetupError if they are not every task on every base.
    """
    from bakeoff.analysis.cells import labelled
    from bakeoff.analysis.task_verdict import summarize_tasks
    from bakeoff.report.tasks import write_tasks
    from bakeoff.store.grid_folder import GridFolder

    grids, places = [GridFolder(path) for path in paths], dict[Path, tuple[str, str] | None]()
    for grid in grids:
        places |= grid.cells() if grid.is_grid() else {grid.path: None}
    cells = labelled([(Folder(path), load_results(path).document, names) for path, names in places.items()])
    if len({os.path.realpath(cell.folder.path) for cell in cells}) < len(cells):
        raise SetupError(f"{cells[0].folder.path}: the folder is given twice. Try: each folder once")
    alone = grids[0] if len(grids) == 1 and grids[0].is_grid() else None
    page = Path(output) if output else alone.page if alone else Path("over-tasks.html")
    refuse_inside(page, "-o over-tasks.html, or any other place")
    name = alone.path.resolve().name if alone else " + ".join(dict.fromkeys(cell.task for cell in cells))
    with writing(page.parent, "-o PAGE.html, another place"):
        return write_tasks(summarize_tasks(cells, name), page)

"""Writes the report: one HTML page, figures, a CSV and a Markdown table, from results.json and the runs' records.

It imports the chart library, which takes as long as everything else in bakeoff together, so only commands that write a
report import it.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bakeoff.analysis.table import csv_table, markdown_table
from bakeoff.errors import SetupError
from bakeoff.report.cards import write_cards
from bakeoff.report.figures import check_own, draw_figures, note_page, write_figures
from bakeoff.report.page import render
from bakeoff.report.source import Source
from bakeoff.store.checksums import read_mapping, unsealed
from bakeoff.store.files import write_text
from bakeoff.store.results_document import ResultsDocument, stored_results
from bakeoff.store.run_folder import Folder


def write_report(path: str | Path) -> Path:
    """Write a bakeoff's page, figures, CSV, Markdown and adapters' cards; return the page's path."""
    folder = Folder(path)
    try:
        results = stored_results(unsealed(read_mapping(folder.results_file)))
    except ValueError:
        raise SetupError(
            f"{folder.path}: no results.json, or a damaged one. Try: bakeoff report {shlex.quote(str(folder.path))}"
        ) from None
    return write_report_of(folder, results)


def write_report_of(folder: Folder, document: ResultsDocument) -> Path:
    """Write everything that `write_report` writes, from results that the caller has."""
    results = document.printable()
    write_text(folder.csv_file, csv_table(results))
    write_text(folder.markdown_file, f"{markdown_table(results)}\n{results.verdict.text}\n")
    write_cards(folder, results)
    source = Source.of([folder], results)
    figures = draw_figures(source.shown())
    write_figures(folder.figures, figures.all())
    write_text(folder.report_file, render(source, figures, folder.figures.name))
    return folder.report_file


def write_comparison(folders: Sequence[Folder], results: ResultsDocument, page: Path) -> Path:
    """Write the page of a bakeoff, or of several with one document, to another place, with its figures beside it.

    Raises SetupError if the page's file or the figures' folder belongs to something else.
    """
    beside = page.with_name(f"{page.stem}-figures")
    check_own(page, beside)
    source = Source.of(folders, results)
    figures = draw_figures(source.shown())
    write_figures(beside, figures.all(), own=False)
    write_text(page, render(source, figures, beside.name))
    note_page(page, beside)
    return page

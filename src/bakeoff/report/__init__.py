"""The report: results.json and the runs' records become one HTML page, a CSV and a Markdown table."""

import json
from pathlib import Path

from bakeoff.errors import SetupError
from bakeoff.records import Folder, write_text
from bakeoff.report.cards import write_cards
from bakeoff.report.page import render
from bakeoff.report.table import csv_table, markdown_table


def write_report(path: str | Path) -> Path:
    """Write report.html, results.csv, results.md and the adapters' cards of a bakeoff; return the page's path."""
    folder = Folder(path)
    try:
        results = json.loads(folder.results_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SetupError(f"{folder.path}: no results.json. Try: bakeoff report {folder.path}") from None
    write_text(folder.csv_file, csv_table(results))
    write_text(folder.markdown_file, f"{markdown_table(results)}\n{results['verdict']['text']}\n")
    write_cards(folder, results)
    write_text(folder.report_file, render(folder, results))
    return folder.report_file

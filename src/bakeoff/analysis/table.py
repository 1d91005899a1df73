"""The table of results for a terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any

from rich.table import Table
from rich.text import Text

from bakeoff.analysis.columns import best_values, columns, is_best, shown_columns
from bakeoff.analysis.remarks import failure, failures, remarks
from bakeoff.errors import printable
from bakeoff.store.results_document import ResultsDocument


def text_table(results: ResultsDocument, width: int = 160) -> Table:
    """Return the table for a terminal `width` columns wide; a narrow one leaves out columns that the page has."""
    shown = shown_columns(results, width)
    table = Table(title=cell(results.name), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("entry", no_wrap=True)
    for column in shown:
        table.add_column(cell(column.heading), justify="right", no_wrap=" " not in column.heading)
    best = best_values(results)
    for name, row in results.rows.items():
        if failure(row):
            table.add_row(cell(name), cell(row.status, "red" if row.status == "failed" else "dim"))
            continue
        cells = [cell(c.text(row), "bold" if is_best(c, row, best) else "") for c in shown]
        table.add_row(cell(name), *cells, style="dim" if row.kind == "baseline" else None)
    return table


def cell(text: Any, style: str = "") -> Text:
    """Return a cell for the terminal, whose text is shown as it is, without control characters or markup."""
    return Text(printable(text), style)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, and that does not end a cell."""
    shown = "".join("\\" + c if c in "\\|`*_<>[]&~$" else " " if c in "\n\r" else c for c in text)
    return f"\\{shown}" if shown.startswith("#") else shown


def markdown_table(results: ResultsDocument, escape: Callable[[str], str] = escape_markdown) -> str:
    """Return the table in Markdown, with failures, failed checks and the scores' signature below it.

    A row that failed says so once, and has all values that are known.
    """
    shown = columns(results)
    lines = [
        "| " + " | ".join(["entry", *(escape(c.heading) for c in shown)]) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    notes = failures(results)
    for name, row in results.rows.items():
        cells = [c.text(row) if not failure(row) or c.value(row) is not None else "" for c in shown]
        cells[0] = row.status if failure(row) else cells[0]
        lines.append("| " + " | ".join(escape(cell) for cell in [name, *cells]) + " |")
    notes += [*remarks(results), results.score_signature]
    return "\n".join(lines) + "\n\n" + "\n\n".join(escape(note) for note in notes) + "\n"


def csv_table(results: ResultsDocument) -> str:
    """Return the table as CSV with raw numbers; a metric with an interval has /low and /high columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shown = columns(results)
    metrics = [c.key.removeprefix("metrics/") for c in shown if c.key.startswith("metrics/")]
    others = [c for c in shown if not c.key.startswith("metrics/")]
    spans = [f"{m}{end}" for m in metrics for end in ("", "/low", "/high")]
    writer.writerow(["entry", "kind", "status", "error", *spans, *(c.key.removeprefix("costs/") for c in others)])
    for name, row in results.rows.items():
        values = [getattr(row.metrics.get(m), end, None) for m in metrics for end in ("mean", "low", "high")]
        cells = [name, row.kind, row.status, row.error, *values, *(c.value(row) for c in others)]
        writer.writerow(["" if cell is None else csv_safe(cell) for cell in cells])
    return out.getvalue()


def csv_safe(cell: Any) -> Any:
    """Return the cell so that a spreadsheet does not read it as a formula, or a line of it as a row."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text

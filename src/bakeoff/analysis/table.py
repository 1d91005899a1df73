"""The table of results for a terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bakeoff.analysis.columns import TEST_LOSS, Column, best_values, columns, is_best, shown_columns, shown_from
from bakeoff.analysis.remarks import failure, failures, remarks
from bakeoff.errors import printable
from bakeoff.store.results_document import ResultsDocument

GAP = 2  # between columns of the terminal's table


def text_table(results: ResultsDocument, width: int = 160) -> Table:
    """Return the table for a terminal `width` columns wide; a narrow one leaves out columns that the page has."""
    widths = fitting(results, width)
    shown = list(widths)
    table = Table(title=cell(results.name), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("entry", no_wrap=True)
    for column, wide in widths.items():
        table.add_column(cell(column.heading), justify="right", width=wide)
    best = best_values(results)
    for name, row in results.rows.items():
        if failure(row):
            table.add_row(cell(name), cell(row.status, "red" if row.status == "failed" else "dim"))
            continue
        cells = [cell(c.text(row), "bold" if is_best(c, row, best) else "") for c in shown]
        table.add_row(cell(name), *cells, style="dim" if row.kind == "baseline" else None)
    return table


def fitting(results: ResultsDocument, width: int) -> dict[Column, int]:
    """Return the columns that a terminal can show without cutting a value, each with its width.

    Which values there are decides: storage, prices and long names take room that others then lack. A heading has one
    line where there is room left, else a line per word.
    """
    wanted, shown = shown_from(results), shown_columns(results, width)
    least = {column: max(map(cell_len, texts(column, results))) for column in shown}
    taken = max(map(cell_len, ["entry", *results.rows]))
    while taken + sum(GAP + least[column] for column in shown) > width and any(wanted[c.key] for c in shown):
        shown.remove(max(reversed(shown), key=lambda column: wanted[column.key]))
    spare = width - taken - sum(GAP + least[column] for column in shown)
    widths = {}
    for column in shown:
        more = max(cell_len(column.heading) - least[column], 0)
        widths[column] = least[column] + (more if more <= spare else 0)
        spare -= widths[column] - least[column]
    return widths


def texts(column: Column, results: ResultsDocument) -> list[str]:
    """Return what a column has to hold without a break: words of its heading, values, and in the first one failures."""
    first = column.key == TEST_LOSS.key
    rows = results.rows.values()
    values = [(row.status if first else "") if failure(row) else column.text(row) for row in rows]
    return [printable(text) for text in [*column.heading.split(" "), *values]]


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

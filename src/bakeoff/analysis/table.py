"""The table of results. Terminal, Markdown, CSV and the page share one definition of its columns."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from bakeoff.errors import listed, printable
from bakeoff.store.results_document import ResultsDocument, ResultsRow

NOT_MEASURED = "not measured"
NO_SUCH_THING = "\N{EN DASH}"
NOT_CONVERGED = "at the end the loss was still falling at more than half its average rate, so longer training may help"
NOT_BETTER = "training never improved on the start; try another learning_rate"
Row = ResultsRow


@dataclass(frozen=True)
class Column:
    """One column: `key` is metrics/NAME, costs/NAME, tuning/NAME or a field of the row; `best` is min, max or None."""

    key: str
    heading: str
    form: Callable[[Any], str]
    explanation: str
    best: str | None = None

    def value(self, row: Row) -> Any:
        """Return the row's raw value, a metric's mean, or None where it was not measured."""
        section, _, name = self.key.partition("/")
        if section == "metrics":
            score = row["metrics"].get(name)
            return score["mean"] if score else None
        parts: Mapping[str, Any] = {"costs": row["costs"], "tuning": row["tuning"] or {}}.get(section, row)
        return parts.get(name or self.key)

    def interval(self, row: Row) -> tuple[float, float] | None:
        """Return a metric's 95 % interval, or None."""
        score = row["metrics"].get(self.key.removeprefix("metrics/"))
        return (score["low"], score["high"]) if score and "low" in score else None

    def text(self, row: Row) -> str:
        """Return the value as text; a dash if a baseline has no such value."""
        value = self.value(row)
        if value is None:
            tuned = row["tuning"] is not None and row["tuning"]["label"] == "tuned"
            none = row["kind"] == "baseline" or (self.key == "costs/tuning_seconds" and not tuned)
            return NO_SUCH_THING if none else NOT_MEASURED
        return self.form(value)

    def interval_text(self, row: Row) -> str:
        """Return the interval as text; empty if there is none."""
        span = self.interval(row)
        return f"{self.form(span[0])}\N{EN DASH}{self.form(span[1])}" if span else ""


def fixed(digits: int) -> Callable[[float], str]:
    """Return a formatter with so many decimals and commas between thousands."""
    return lambda value: f"{value:,.{digits}f}"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def signed(value: float) -> str:
    """Return a difference of losses with its sign."""
    return f"{value:+.3f}"


def size(value: float) -> str:
    """Return bytes in the unit that suits them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:,.2f} {unit}" if value < 100 * scale else f"{value / scale:,.0f} {unit}"
    return f"{value:,.0f} B"


def rate(value: float) -> str:
    """Return a learning rate."""
    return f"{value:.2g}"


TEST_LOSS = Column(
    "metrics/test/loss", "test loss", fixed(3), "nats per target token, over the whole test split", "min"
)
OTHERS = (
    Column(
        "metrics/validation/overfitting",
        "over-fitting",
        signed,
        "validation loss minus the loss on as many training examples, at the kept checkpoint, without dropout",
    ),
    Column(
        "metrics/neutral/forgetting",
        "forgetting",
        signed,
        "how much the adapter raises the loss on neutral English prose, in nats per token, without template",
        "min",
    ),
    Column("trainable_parameters", "trainable", fixed(0), "parameters that training changes", "min"),
    Column(
        "trainable_percent", "%", fixed(4), "share of all parameters, adapter included, that training changes", "min"
    ),
    Column("costs/adapter_bytes", "adapter", size, "size of the adapter's safetensors files", "min"),
    Column("costs/train_seconds", "train s", fixed(1), "seconds of optimizer steps only", "min"),
    Column("costs/tokens_per_second", "tokens/s", fixed(0), "tokens per second of training, without padding", "max"),
    Column("costs/peak_bytes", "peak memory", size, "peak memory of the run's own process while training", "min"),
    Column("learning_rate", "learning rate", rate, "peak learning rate of AdamW", None),
    Column(
        "tuning/label", "tuning", str, "tuned: chosen by trials; fixed: given in the config; off: no entry is tuned"
    ),
    Column(
        "costs/tuning_seconds",
        "tuning s",
        fixed(1),
        "seconds of the trials' optimizer steps; those of the chosen trial are also in train s, as the run of the "
        "first seed",
    ),
    Column("seeds", "seeds", fixed(0), "finished runs of the entry", None),
)
STORAGE = Column(
    "quantize", "base in", str, "how the base's matrices are stored: none (as in its files), nf4 (4 bits) or int8 (8)"
)
# The columns that a terminal shows, by how wide it must be; the page has them all.
SHOWN_FROM = {
    "metrics/test/loss": 0, "trainable_parameters": 60, "costs/adapter_bytes": 80, "costs/train_seconds": 60,
    "costs/peak_bytes": 80, "trainable_percent": 120, "costs/tokens_per_second": 120,
    "metrics/validation/overfitting": 185, "metrics/neutral/forgetting": 185,
}  # fmt: skip
SCORES_FROM = (80, 100)  # the same for the first scores after the one that entries are ranked by
WIDE = 150


def columns(results: ResultsDocument) -> list[Column]:
    """Return the table's columns: test loss, the scores that the config names, costs; storage if any is packed."""
    scores = [
        Column(f"metrics/test/{m['name']}", m["heading"], fixed(3), m["explanation"], "max") for m in results["metrics"]
    ]
    packed = any(row.get("quantize") not in (None, "none") for row in rows_of(results).values())
    return [TEST_LOSS, *scores, *([STORAGE] if packed else []), *OTHERS]


def shown_columns(results: ResultsDocument, width: int) -> list[Column]:
    """Return the columns for a terminal `width` columns wide."""
    ranked = f"metrics/test/{results['primary']}"
    beside = [f"metrics/test/{m['name']}" for m in results["metrics"] if m["name"] != results["primary"]]
    needed = {**SHOWN_FROM, ranked: 0, **dict(zip(beside, SCORES_FROM, strict=False))}
    return [column for column in columns(results) if width >= needed.get(column.key, WIDE)]


def rows_of(results: ResultsDocument) -> dict[str, Row]:
    """Return entries first, then baselines, by name."""
    return results["entries"] | results["baselines"]


def standing(name: str, results: ResultsDocument) -> str:
    """Return "best", "first of a tie", "tied with the best" or nothing: the verdict in a word."""
    verdict = results["verdict"]
    if name == verdict["best"]:
        return "first of a tie" if verdict["tied_with_best"] else "best"
    return "tied with the best" if name in verdict["tied_with_best"] else ""


def is_best(column: Column, row: Row, best: dict[str, Any]) -> bool:
    """Return whether a row is an entry with the best value of its column."""
    value = column.value(row)
    return row["kind"] == "entry" and value is not None and value == best.get(column.key)


def best_values(results: ResultsDocument) -> dict[str, Any]:
    """Return each column's best value over the finished entries."""
    done = [row for row in results["entries"].values() if row["status"] == "done"]
    best = {}
    for column in columns(results):
        values = [v for row in done if (v := column.value(row)) is not None]
        if column.best and values:
            best[column.key] = min(values) if column.best == "min" else max(values)
    return best


def failure(row: Row) -> str | None:
    """Return why a row has no results, or None if it has results."""
    if row["status"] == "done":
        return None
    return f"{row['status']}: {row['error']}" if row["error"] else str(row["status"])


def failures(results: ResultsDocument) -> list[str]:
    """Return one line for each row without results, and one for each check that a row failed."""
    rows = rows_of(results)
    lines = [f"{name} {reason}" for name, row in rows.items() if (reason := failure(row))]
    return lines + [f"{name}: {note}" for name, row in rows.items() for note in failed_checks(row)]


def failed_checks(row: Row) -> list[str]:
    """Return one line for each check that a row's runs failed; why a run failed is shown elsewhere."""
    if row["status"] == "failed":
        return []
    return [f"check {name} failed: {note}" for name, note in row["check_notes"].items()]


def edge_note(name: str, row: Row) -> str | None:
    """Return in words that an entry's best trial was on the edge of what was tried, or None if it was not."""
    tuning = row["tuning"]
    if not tuning or not tuning["edge"]:
        return None
    sides = " and ".join(f"{field} was the {side}est" for field, side in tuning["edge"].items())
    after = {
        "better": "one step further was better and was chosen, so the best value may be even further",
        "worse": "one step further was worse",
        "failed": "one step further failed",
        "no room": "its range ends there",
    }.get(tuning["extended"] or "", "one step further has not run")
    tried = len(row["trial_points"])
    return f"{name}: the best trial was at the edge of the search: {sides} of the {tried} tried; {after}"


def remarks(results: ResultsDocument) -> list[str]:
    """Return a line for each entry on the edge of its search, for those not converged, and for those not better."""
    entries = results["entries"]
    lines = [note for name, row in entries.items() if (note := edge_note(name, row))]
    early = [name for name, row in entries.items() if row["converged"] is False]
    if early:
        lines.append(f"not converged: {listed(early)}: {NOT_CONVERGED}")
    never = [name for name, row in entries.items() if row["improved"] is False]
    if never:
        lines.append(f"not better: {listed(never)}: {NOT_BETTER}")
    return lines


def text_table(results: ResultsDocument, width: int = 160) -> Table:
    """Return the table for a terminal `width` columns wide; a narrow one leaves out columns that the page has."""
    shown = shown_columns(results, width)
    table = Table(title=cell(results["name"]), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("entry", no_wrap=True)
    for column in shown:
        table.add_column(cell(column.heading), justify="right", no_wrap=" " not in column.heading)
    best = best_values(results)
    for name, row in rows_of(results).items():
        if failure(row):
            table.add_row(cell(name), cell(row["status"], "red" if row["status"] == "failed" else "dim"))
            continue
        cells = [cell(c.text(row), "bold" if is_best(c, row, best) else "") for c in shown]
        table.add_row(cell(name), *cells, style="dim" if row["kind"] == "baseline" else None)
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
    for name, row in rows_of(results).items():
        cells = [c.text(row) if not failure(row) or c.value(row) is not None else "" for c in shown]
        cells[0] = row["status"] if failure(row) else cells[0]
        lines.append("| " + " | ".join(escape(cell) for cell in [name, *cells]) + " |")
    notes += [*remarks(results), results["score_signature"]]
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
    for name, row in rows_of(results).items():
        known: Mapping[str, Mapping[str, Any]] = row["metrics"]
        values = [known.get(m, {}).get(end) for m in metrics for end in ("mean", "low", "high")]
        cells = [name, row["kind"], row["status"], row["error"], *values, *(c.value(row) for c in others)]
        writer.writerow(["" if cell is None else csv_safe(cell) for cell in cells])
    return out.getvalue()


def csv_safe(cell: Any) -> Any:
    """Return the cell so that a spreadsheet does not read it as a formula, or a line of it as a row."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text

"""The columns of the table of results, shared by terminal, Markdown, CSV and page, and how their values are written."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bakeoff.store.results_document import Price, ResultsDocument, ResultsRow, interval_of

NOT_MEASURED = "not measured"
NO_SUCH_THING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """One column: `key` is metrics/NAME, costs/NAME, tuning/NAME or a field of the row; `best` is min, max or None."""

    key: str
    heading: str
    form: Callable[[Any], str]
    explanation: str
    best: str | None = None

    def value(self, row: ResultsRow) -> Any:
        """Return the row's raw value, a metric's mean, or None where it was not measured."""
        section, _, name = self.key.partition("/")
        if section == "metrics":
            score = row.metrics.get(name)
            return score.mean if score else None
        if section == "costs":
            return row.costs.get(name)
        return getattr(row.tuning, name, None) if section == "tuning" else getattr(row, self.key)

    def interval(self, row: ResultsRow) -> tuple[float, float] | None:
        """Return a metric's 95 % interval, or None."""
        score = row.metrics.get(self.key.removeprefix("metrics/"))
        return interval_of(score) if score else None

    def text(self, row: ResultsRow) -> str:
        """Return the value as text; a dash if a baseline has no such value."""
        value = self.value(row)
        if value is None:
            tuned = row.tuning is not None and row.tuning.label == "tuned"
            none = row.kind == "baseline" or (self.key in ("costs/tuning_seconds", "costs/tuning_price") and not tuned)
            return NO_SUCH_THING if none else NOT_MEASURED
        return self.form(value)

    def interval_text(self, row: ResultsRow) -> str:
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


def money(currency: str) -> Callable[[float], str]:
    """Return a formatter of money: two digits at least, of small sums as many as tell them apart."""
    unit = f" {currency}" if currency else ""
    return lambda value: f"{value:,.2f}{unit}" if value >= 1 else f"{Decimal(f'{value:.2g}'):f}{unit}"


def prices(price: Price | None) -> list[Column]:
    """Return the columns of money; none if an hour has no price."""
    if price is None or price.hour is None:
        return []
    form, hour = money(price.currency), f"at {price.hour:g}{f' {price.currency}' if price.currency else ''} per hour"
    return [
        Column("costs/price", "price", form, f"one final training, by the seconds of its steps and of storing the "
               f"outputs of frozen blocks, {hour} of each {price.device} that it held", "min"),
        Column("costs/tuning_price", "tuning price", form, f"all trials, by the seconds of their steps, {hour}"),
    ]  # fmt: skip


STORAGE = Column(
    "quantize", "base in", str, "how the base's matrices are stored: none (as in its files), nf4 (4 bits) or int8 (8)"
)
# The columns that a terminal shows, by how wide it must be; the page has them all.
SHOWN_FROM = {
    "metrics/test/loss": 0, "trainable_parameters": 60, "costs/adapter_bytes": 80, "costs/train_seconds": 60,
    "costs/peak_bytes": 80, "costs/price": 100, "trainable_percent": 120, "costs/tokens_per_second": 120,
    "metrics/validation/overfitting": 185, "metrics/neutral/forgetting": 185,
}  # fmt: skip
SCORES_FROM = (80, 100)  # the same for the first scores after the one that entries are ranked by
WIDE = 150


def columns(results: ResultsDocument) -> list[Column]:
    """Return the table's columns: test loss, the scores that the config names, costs; storage if any is packed."""
    scores = [Column(f"metrics/test/{m.name}", m.heading, fixed(3), m.explanation, "max") for m in results.metrics]
    packed = any(row.quantize not in (None, "none") for row in results.rows.values())
    return [TEST_LOSS, *scores, *([STORAGE] if packed else []), *OTHERS, *prices(results.price)]


def shown_columns(results: ResultsDocument, width: int) -> list[Column]:
    """Return the columns for a terminal `width` columns wide."""
    wanted = shown_from(results)
    return [column for column in columns(results) if width >= wanted[column.key]]


def shown_from(results: ResultsDocument) -> dict[str, int]:
    """Return how wide a terminal must be to show each column, by key; the columns with 0 always are."""
    ranked = f"metrics/test/{results.primary}"
    beside = [f"metrics/test/{m.name}" for m in results.metrics if m.name != results.primary]
    known = {**SHOWN_FROM, ranked: 0, **dict(zip(beside, SCORES_FROM, strict=False))}
    return {column.key: known.get(column.key, WIDE) for column in columns(results)}


def is_best(column: Column, row: ResultsRow, best: dict[str, Any]) -> bool:
    """Return whether a row is an entry with the best value of its column."""
    value = column.value(row)
    return row.kind == "entry" and value is not None and value == best.get(column.key)


def best_values(results: ResultsDocument) -> dict[str, Any]:
    """Return each column's best value over the finished entries."""
    done = [row for row in results.entries.values() if row.status == "done"]
    best = {}
    for column in columns(results):
        values = [v for row in done if (v := column.value(row)) is not None]
        if column.best and values:
            best[column.key] = min(values) if column.best == "min" else max(values)
    return best

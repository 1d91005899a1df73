"""What trainings have cost in money: seconds, times the devices that a run held meanwhile, times a price."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bakeoff.analysis.alone import costs_alone, pace_alone
from bakeoff.config.config import Config
from bakeoff.store.records import RunResult
from bakeoff.store.results_document import Price, ResultsRow


def price_of(config: Config, environment: Mapping[str, Any]) -> Price | None:
    """Return what an hour of the runs' device costs; None if the config names no price."""
    if config.price is None:
        return None
    gpu = bool(environment.get("gpu"))
    hour = config.price.gpu_hour if gpu else config.price.cpu_hour
    return Price(hour=hour, device="GPU" if gpu else "machine", currency=config.price.currency)


def priced(
    row: ResultsRow, price: Price | None, finals: Sequence[RunResult], trials: Sequence[RunResult]
) -> ResultsRow:
    """Return an entry's row with what one of its `finals` has cost on average, and what all its `trials` have."""
    if price is None or price.hour is None:
        return row
    pace = pace_alone(finals)
    each = [device_seconds(record, price, pace, ("train_seconds", "trunk_seconds")) for record in finals]
    tuned = [device_seconds(record, price, pace, ("train_seconds",)) or 0.0 for record in trials]
    whole = [seconds for seconds in each if seconds is not None]
    money = {
        "price": sum(whole) / len(each) / 3600 * price.hour if whole and len(whole) == len(each) else None,
        "tuning_price": None if row.costs.get("tuning_seconds") is None else sum(tuned) / 3600 * price.hour,
    }
    return row.model_copy(update={"costs": row.costs | money})


def device_seconds(record: RunResult, price: Price, pace: float | None, parts: Iterable[str]) -> float | None:
    """Return a run's seconds, the first of the `parts` and what there is of the others, times what it held meanwhile.

    That is GPUs where a GPU has the price, else machines. None if the first part was not measured. `pace` see
    `costs_alone`.
    """
    first, *others = [costs_alone(record, pace).get(part) for part in parts]
    held = record.shards if price.device == "GPU" else record.machines
    return None if first is None else held * (first + sum(filter(None, others)))

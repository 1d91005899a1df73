"""The forecast, played with recorded event streams: tests/streams, made from a bakeoff's plan.json and events.jsonl.

fixed.jsonl: `bakeoff demo -s data.train_limit=320 -s data.validation_limit=40 -s data.test_limit=60`; the end of
reading was recorded as an event of its own, and stands in the progress that tells it now.
tuned.jsonl: `bakeoff demo --full -s data.train_limit=96 -s data.validation_limit=24 -s data.test_limit=24
-s protocol.seeds=2 -s protocol.evaluate_every=6`. Both on 2026-11-24, one core of an AMD EPYC; times are from the first
run on.
"""

import json
from pathlib import Path

import pytest

from bakeoff.forecast import Forecast
from bakeoff.journal import event_of
from bakeoff.records import Run
from bakeoff.sections import ProtocolConfig

STREAMS = Path(__file__).parent / "streams"


def forecasts(name):
    """Yield the elapsed time and the forecast of the whole, in shares of what it took, at and between all events."""
    head, *rows = map(json.loads, (STREAMS / f"{name}.jsonl").read_text().splitlines())
    now = [0.0]
    runs = [Run(**run) for run in head["runs"]]
    later = {run["id"]: Run(**run) for run in head["added"]}
    forecast = Forecast(runs, head["plan"], ProtocolConfig(**head["protocol"]), clock=lambda: now[0])
    whole = rows[-1]["time"]
    for row, following in zip(rows, [*rows[1:], rows[-1]], strict=True):
        now[0] = row["time"]
        if row["kind"] != "end":
            if row["run"] in later:
                forecast.add(later.pop(row["run"]))
            forecast.take(event_of(row))
        for time in (row["time"], (row["time"] + following["time"]) / 2):
            now[0] = time
            left = forecast.left()
            yield time / whole, None if left is None else (time + left) / whole


@pytest.mark.parametrize("name", ["fixed", "tuned"])
def test_after_the_first_tenth_the_forecast_is_within_a_quarter(name):
    later = [total for share, total in forecasts(name) if share >= 0.1]
    assert len(later) > 100
    assert min(later) >= 0.75
    assert max(later) <= 1.25

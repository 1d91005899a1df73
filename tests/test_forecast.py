"""The forecast, played with recorded event streams: tests/streams, made from a bakeoff's plan.json and events.jsonl.

documents.jsonl: `bakeoff demo -s data.train_limit=600 -s data.validation_limit=100 -s data.test_limit=300`,
documents_fp32.jsonl: `bakeoff demo -s data.train_limit=320 -s data.validation_limit=40 -s data.test_limit=150
-s protocol.precision=fp32`, both on 2026-11-28, one core of an AMD EPYC with avx512_bf16.
fixed.jsonl: `bakeoff demo -s data.train_limit=320 -s data.validation_limit=40 -s data.test_limit=60`; the end of
reading was recorded as an event of its own, and stands in the progress that tells it now.
tuned.jsonl: `bakeoff demo --full -s data.train_limit=96 -s data.validation_limit=24 -s data.test_limit=24
-s protocol.seeds=2 -s protocol.evaluate_every=6`. Both on 2026-11-24, one core of an AMD EPYC with AVX2.
Times are from the first run on; storing a trunk was a part of loading then.
"""

import json
from pathlib import Path

import pytest
from rich.console import Console

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.eta import Forecast
from bakeoff.progress.live import LiveDisplay
from bakeoff.progress.plain import JsonDisplay, PlainDisplay
from bakeoff.progress.replay import earlier_events, measured_before
from bakeoff.store.events import Note, event_of
from bakeoff.store.records import Run

STREAMS = Path(__file__).parent / "streams"


# A recording has what the forecast needs; the rest of an event is the same in each.
REST = {
    "step": {"tokens_per_second": 1.0, "seconds_left": 1.0},
    "metrics": {"epoch": 0.0, "seconds": 0.0},
    "done": {"metrics": {}, "costs": {}, "check_notes": {}},
    "failed": {"error": None},
    "start": {"done": [], "steps": {}},
}


def events(*rows):
    """Return the events of rows."""
    return [event_of({**REST.get(row["kind"], {}), **row}) for row in rows]


def stream(name):
    """Return a recording's head, runs, protocol and rows."""
    head, *rows = map(json.loads, (STREAMS / f"{name}.jsonl").read_text().splitlines())
    rows = [{**(REST["step"] if "step" in row else {}), **REST.get(row["kind"], {}), **row} for row in rows]
    return head, [Run(**run) for run in head["runs"]], ProtocolConfig(**head["protocol"]), rows


def forecasts(name):
    """Yield the elapsed time and the forecast of the whole, in shares of what it took, at and between all events."""
    head, runs, protocol, rows = stream(name)
    now = [0.0]
    later = {run["id"]: Run(**run) for run in head["added"]}
    forecast = Forecast(runs, head["plan"], protocol, clock=lambda: now[0])
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


@pytest.mark.parametrize("name", ["fixed", "tuned", "documents", "documents_fp32"])
def test_after_the_first_tenth_the_forecast_is_within_a_quarter(name):
    later = [total for share, total in forecasts(name) if share >= 0.1]
    assert len(later) > 100
    assert min(later) >= 0.75
    assert max(later) <= 1.25


def test_a_bakeoff_that_goes_on_is_forecast_by_what_its_earlier_session_measured():
    head, runs, protocol, rows = stream("fixed")
    last = next(i for i, row in enumerate(rows) if row.get("run") == runs[-1].id)
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:last]), runs, head["plan"], protocol)
    forecast = Forecast(runs, head["plan"], protocol, [run.id for run in runs[:-1]], rates=rates)
    assert forecast.left() == pytest.approx(rows[-1]["time"] - rows[last]["time"], rel=0.25)
    assert Forecast(runs, head["plan"], protocol, [run.id for run in runs[:-1]]).left() is None


def test_time_between_sessions_counts_for_nothing():
    head, runs, protocol, rows = stream("fixed")
    killed = next(i for i, row in enumerate(rows) if row.get("state") == "training") + 3
    night = [{**row, "time": row["time"] + 50_000} for row in rows]
    sessions = [*rows[:killed], {"kind": "start", "time": night[0]["time"] - 1}, *night[:-1]]
    rates = measured_before(events(*sessions), runs, head["plan"], protocol)
    assert sum(rates.seconds.values()) < 2 * rows[-1]["time"]


def test_a_clock_that_was_set_back_gives_no_negative_seconds():
    head, runs, protocol, rows = stream("fixed")
    start, half = {"kind": "start", "time": 0.0}, len(rows) // 2
    before, after = [{**row, "time": row["time"] + 50_000} for row in (start, *rows[:half])], rows[half:-1]
    within = measured_before(events(*before, *after), runs, head["plan"], protocol)
    assert min(within.seconds.values()) >= 0
    between = measured_before(events(*before, start, *after), runs, head["plan"], protocol)
    assert sum(between.seconds.values()) > 0.9 * rows[-1]["time"]  # each session by its own clock


def test_a_damaged_journal_tells_up_to_its_damage(tmp_path):
    journal = tmp_path / "events.jsonl"
    first = {"time": 1, "kind": "note", "text": "planned"}
    for damage in ("\0\0\0", "{}", "[1]", '{"time": 1, "kind": "start"}', '{"time": 1, "kind": "progress", "step": 1}'):
        journal.write_text(f'{json.dumps(first)}\n{damage}\n{{"time": 2, "kind": "end"}}\n')
        assert list(earlier_events(journal)) == [Note(**first)]


def test_until_an_entry_has_trained_the_time_left_says_what_it_is_estimated_from(capsys):
    head, runs, protocol, rows = stream("documents")
    now = [0.0]
    forecast = Forecast(runs, head["plan"], protocol, clock=lambda: now[0])
    basis = "estimated from the speed of the untouched base: no entry has trained long enough yet"
    shown = [kind(runs, [], forecast, lambda: now[0]) for kind in (PlainDisplay, JsonDisplay)]
    live = LiveDisplay(runs, [], forecast, lambda: now[0], Console(width=160))
    said = {True: [], False: []}
    with shown[0] as plain, shown[1] as machine:
        for row in rows[:-1]:
            now[0] = row["time"]
            forecast.take(event_of(row))
            if row["kind"] == "progress":
                plain.show(event_of(row))
            machine.show(event_of(row))
            for line in [*capsys.readouterr().err.splitlines(), live.totals()]:
                if "for all" in line or "bakeoff_seconds_left" in line or " left, " in line:
                    said[forecast.rates.trained()].append(line)
    assert len(said[False]) > 10
    assert all(basis in line for line in said[False])
    assert len(said[True]) > 100
    assert not [line for line in said[True] if basis in line]


def test_what_an_earlier_session_trained_counts():
    head, runs, protocol, rows = stream("fixed")
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), runs, head["plan"], protocol)
    assert Forecast(runs, head["plan"], protocol, rates=rates).basis() is None
    assert Forecast(runs, head["plan"], protocol, [run.id for run in runs]).basis() is None  # nothing is left to train

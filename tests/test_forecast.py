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
import math
from pathlib import Path

import pytest
from rich.console import Console

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.eta import Forecast, measured_before
from bakeoff.progress.live import LiveDisplay
from bakeoff.progress.plain import JsonDisplay, PlainDisplay
from bakeoff.store.event_log import earlier_events
from bakeoff.store.events import Note, event_of
from bakeoff.store.records import Run
from tests.conftest import plan_with

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
    head["plan"] = plan_with(head["plan"])
    rows = [{**(REST["step"] if "step" in row else {}), **REST.get(row["kind"], {}), **row} for row in rows]
    return head, [Run(**run) for run in head["runs"]], ProtocolConfig(**head["protocol"]), rows


def seconds_of(rates, runs):
    """Return the seconds that were measured of all entries and baselines."""
    return sum(seconds for (group, _), seconds in rates.seconds.items() if group in {run.entry for run in runs})


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
    assert seconds_of(rates, runs) < 2 * rows[-1]["time"]


def test_a_clock_that_was_set_back_gives_no_negative_seconds():
    head, runs, protocol, rows = stream("fixed")
    start, half = {"kind": "start", "time": 0.0}, len(rows) // 2
    before, after = [{**row, "time": row["time"] + 50_000} for row in (start, *rows[:half])], rows[half:-1]
    within = measured_before(events(*before, *after), runs, head["plan"], protocol)
    assert min(within.seconds.values()) >= 0
    between = measured_before(events(*before, start, *after), runs, head["plan"], protocol)
    assert seconds_of(between, runs) > 0.9 * rows[-1]["time"]  # each session by its own clock


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
                    said[any(forecast.rates.units[run.entry, "training"] for run in runs)].append(line)
    assert len(said[False]) > 10
    assert all(basis in line for line in said[False])
    assert len(said[True]) > 100
    assert not [line for line in said[True] if basis in line]


def test_what_an_earlier_session_trained_counts():
    head, runs, protocol, rows = stream("fixed")
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), runs, head["plan"], protocol)
    assert Forecast(runs, head["plan"], protocol, rates=rates).basis() is None
    assert Forecast(runs, head["plan"], protocol, [run.id for run in runs]).basis() is None  # nothing is left to train


def played(forecast, now, run, *rows):
    """Let the forecast take events of a run, given as seconds and what happens after them."""
    for seconds, kind, values in rows:
        now[0] += seconds
        forecast.take(*events({"run": run, "kind": kind, **({"state": values} if kind == "state" else values)}))


def step(number, kind="progress"):
    rest = {"steps": 80, **REST["step"]} if kind == "progress" else {}
    return kind, {"step": number, **rest}


def test_steps_before_an_interrupt_are_done_but_say_nothing_of_the_speed():
    head, runs, protocol, _ = stream("fixed")
    now, lora = [0.0], runs[-1]
    forecast = Forecast(runs, head["plan"], protocol, [run.id for run in runs[:-1]], clock=lambda: now[0])
    resumed = [(1, "state", "loading"), (0, *step(0, "metrics")), (1, "state", "training"), (3, *step(31))]
    played(forecast, now, lora.id, *resumed)
    assert math.isnan(forecast.rates.rate("lora", "training"))
    played(forecast, now, lora.id, (2, *step(32)))
    whole = forecast.rates.training["lora"]
    assert forecast.rates.rate("lora", "training") * forecast.rates.step["lora"] == pytest.approx(2.0)
    assert forecast.work["lora", lora.id]["training"] == pytest.approx(
        whole - forecast.rates.multiplications("lora", 32, False)
    )


def test_a_training_that_patience_has_ended_leaves_no_steps():
    head, runs, protocol, rows = stream("fixed")
    now, lora = [0.0], runs[-1]
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), runs, head["plan"], protocol)
    forecast = Forecast(runs, head["plan"], protocol, [run.id for run in runs[:-1]], clock=lambda: now[0], rates=rates)
    played(forecast, now, lora.id, (0, "state", "loading"), (1, "state", "training"), (3, *step(40)))
    before = forecast.left_of(lora.id)
    played(forecast, now, lora.id, (0, "state", "saving"))
    assert forecast.left_of(lora.id) < 0.5 * before


def test_a_trial_is_left_until_its_next_rung_and_one_that_stops_takes_no_more():
    head, runs, protocol, rows = stream("tuned")
    now, trial = [0.0], next(run for run in runs if run.kind == "trial")
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), runs, head["plan"], protocol)
    forecast = Forecast(runs, head["plan"], protocol, steps={trial.id: 6}, clock=lambda: now[0], rates=rates)
    played(forecast, now, trial.id, (0, "state", "loading"), (0, *step(6, "metrics")), (0, "state", "training"))
    steps = forecast.rates.step[trial.entry] * forecast.rates.rate(trial.entry, "training")
    assert 6 * steps < forecast.left_of(trial.id) < 9 * steps  # to step 12, with a validation
    played(forecast, now, trial.id, (2, "state", "paused"))
    left = forecast.left()
    played(forecast, now, trial.id, (2, "state", "stopped"))
    assert forecast.left() == left
    assert forecast.left_of(trial.id) is None


def test_a_damaged_plan_ends_no_display():
    _, runs, protocol, rows = stream("tuned")
    plan = json.loads((STREAMS / "tuned.jsonl").read_text().splitlines()[0])["plan"]
    for entry in plan["entries"].values():
        entry["steps"] = 0
    plan["data"]["splits"]["train"] = {"examples": 1}
    plan["model"]["forward_products"] = {"prompt": 0, "target": 0, "example": 0}
    forecast = Forecast(runs, plan_with(plan), protocol, clock=lambda: 0.0)
    for event in events(*rows[:40]):
        forecast.take(event)
    assert forecast.left() == 0.0  # by a clock that stands still


def main():
    """Print the largest errors of the forecast of each recording after its first tenth."""
    for name in sorted(file.stem for file in STREAMS.iterdir()):
        later = [100 * (total - 1) for share, total in forecasts(name) if share >= 0.1]
        print(f"{name}: {min(later):+.1f} % to {max(later):+.1f} %")


if __name__ == "__main__":
    main()

"""The forecast, played with recorded event streams: tests/streams, made from a bakeoff's plan.json and events.jsonl.

documents.jsonl: `bakeoff demo -s data.train_limit=600 -s data.validation_limit=100 -s data.test_limit=300`,
documents_fp32.jsonl: `bakeoff demo -s data.train_limit=320 -s data.validation_limit=40 -s data.test_limit=150
-s protocol.precision=fp32`, both on 2026-11-28, one core of an AMD EPYC with avx512_bf16.
fixed.jsonl: `bakeoff demo -s data.train_limit=320 -s data.validation_limit=40 -s data.test_limit=60`; the end of
reading was recorded as an event of its own, and stands in the progress that tells it now.
tuned.jsonl: `bakeoff demo --full -s data.train_limit=96 -s data.validation_limit=24 -s data.test_limit=24
-s protocol.seeds=2 -s protocol.evaluate_every=6`. Both on 2026-11-24, one core of an AMD EPYC with AVX2.
Times are from the first run on; storing a trunk was a part of loading then, so that it counts twice here, also as
multiplications.
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
from bakeoff.progress.throughput import Rates
from bakeoff.store.event_log import earlier_events
from bakeoff.store.events import Note, Start, event_of
from bakeoff.store.records import Run
from tests.conftest import plan_with

STREAMS = Path(__file__).parent / "streams"
READING = ("base", "training")


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
    """Return a recording's plan, protocol, rows and the trials that are added."""
    head, *rows = map(json.loads, (STREAMS / f"{name}.jsonl").read_text().splitlines())
    runs = [Run(**run) for run in head["runs"]]
    for name, entry in head["plan"]["entries"].items():
        its = [run for run in runs if run.entry == name]
        entry |= {"method": its[0].method, "trials": sum(run.kind == "trial" for run in its)}
    plan = plan_with(head["plan"]).model_copy(update={"runs": runs})
    rows = [{**(REST["step"] if "step" in row else {}), **REST.get(row["kind"], {}), **row} for row in rows]
    return plan, ProtocolConfig(**head["protocol"]), rows, [Run(**run) for run in head["added"]]


def forecast_of(rates, done=(), clock=lambda: 0.0, **start):
    """Return the forecast of a session with these rates, in which some runs are done already."""
    return Forecast(rates, Start(**{"done": [run.id for run in done], "steps": {}, **start}), clock)


def seconds_of(rates):
    """Return the seconds that were measured of all entries and baselines, but not of the base's reading beside."""
    known = {run.entry for run in rates.plan.runs}
    return sum(s for (group, phase), s in rates.seconds.items() if group in known and (group, phase) != READING)


def forecasts(name):
    """Yield the elapsed time and the forecast of the whole, in shares of what it took, at and between all events."""
    plan, protocol, rows, added = stream(name)
    now, later = [0.0], {run.id: run for run in added}
    forecast = forecast_of(Rates(plan, protocol), clock=lambda: now[0])
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
    plan, protocol, rows, _ = stream("fixed")
    last = next(i for i, row in enumerate(rows) if row.get("run") == plan.runs[-1].id)
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:last]), plan, protocol)
    forecast = forecast_of(rates, plan.runs[:-1])
    assert forecast.left() == pytest.approx(rows[-1]["time"] - rows[last]["time"], rel=0.25)
    assert forecast_of(Rates(plan, protocol), plan.runs[:-1]).left() is None


def test_time_between_sessions_counts_for_nothing():
    plan, protocol, rows, _ = stream("fixed")
    killed = next(i for i, row in enumerate(rows) if row.get("state") == "training") + 3
    night = [{**row, "time": row["time"] + 50_000} for row in rows]
    sessions = [*rows[:killed], {"kind": "start", "time": night[0]["time"] - 1}, *night[:-1]]
    rates = measured_before(events(*sessions), plan, protocol)
    assert seconds_of(rates) < 2 * rows[-1]["time"]


def test_a_clock_that_was_set_back_gives_no_negative_seconds():
    plan, protocol, rows, _ = stream("fixed")
    start, half = {"kind": "start", "time": 0.0}, len(rows) // 2
    before, after = [{**row, "time": row["time"] + 50_000} for row in (start, *rows[:half])], rows[half:-1]
    within = measured_before(events(*before, *after), plan, protocol)
    assert min(within.seconds.values()) >= 0
    between = measured_before(events(*before, start, *after), plan, protocol)
    assert seconds_of(between) > 0.9 * rows[-1]["time"]  # each session by its own clock


def test_a_damaged_journal_tells_up_to_its_damage(tmp_path):
    journal = tmp_path / "events.jsonl"
    first = {"time": 1, "kind": "note", "text": "planned"}
    for damage in ("\0\0\0", "{}", "[1]", '{"time": 1, "kind": "start"}', '{"time": 1, "kind": "progress", "step": 1}'):
        journal.write_text(f'{json.dumps(first)}\n{damage}\n{{"time": 2, "kind": "end"}}\n')
        assert list(earlier_events(journal)) == [Note(**first)]


def test_until_an_entry_has_trained_the_time_left_says_what_it_is_estimated_from(capsys):
    plan, protocol, rows, _ = stream("documents")
    now = [0.0]
    forecast = forecast_of(Rates(plan, protocol), clock=lambda: now[0])
    basis = "estimated from the speed of the untouched base: no entry has trained long enough yet"
    shown = [kind(plan.runs, [], forecast, lambda: now[0]) for kind in (PlainDisplay, JsonDisplay)]
    live = LiveDisplay(plan.runs, [], forecast, lambda: now[0], Console(width=160))
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
                    said[any(forecast.rates.units[name, "training"] for name in plan.entries)].append(line)
    assert len(said[False]) > 10
    assert all(basis in line for line in said[False])
    assert len(said[True]) > 100
    assert not [line for line in said[True] if basis in line]


def test_what_an_earlier_session_trained_counts():
    plan, protocol, rows, _ = stream("fixed")
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), plan, protocol)
    assert forecast_of(rates).basis() is None
    assert forecast_of(Rates(plan, protocol), plan.runs).basis() is None  # nothing is left to train


def played(forecast, now, run, *rows):
    """Let the forecast take events of a run, given as seconds and what happens after them."""
    for seconds, kind, values in rows:
        now[0] += seconds
        forecast.take(*events({"run": run, "kind": kind, **({"state": values} if kind == "state" else values)}))


def step(number, kind="progress"):
    rest = {"steps": 80, **REST["step"]} if kind == "progress" else {}
    return kind, {"step": number, **rest}


def test_steps_before_an_interrupt_are_done_but_say_nothing_of_the_speed():
    plan, protocol, *_ = stream("fixed")
    now, lora = [0.0], plan.runs[-1]
    forecast = forecast_of(Rates(plan, protocol), plan.runs[:-1], lambda: now[0])
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
    plan, protocol, rows, _ = stream("fixed")
    now, lora = [0.0], plan.runs[-1]
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), plan, protocol)
    forecast = forecast_of(rates, plan.runs[:-1], lambda: now[0])
    played(forecast, now, lora.id, (0, "state", "loading"), (1, "state", "training"), (3, *step(40)))
    before = forecast.left_of(lora.id)
    played(forecast, now, lora.id, (0, "state", "saving"))
    assert forecast.left_of(lora.id) < 0.5 * before


def test_a_trial_is_left_until_its_next_rung_and_one_that_stops_takes_no_more():
    plan, protocol, rows, _ = stream("tuned")
    now, trial = [0.0], next(run for run in plan.runs if run.kind == "trial")
    rates = measured_before(events({"kind": "start", "time": 0.0}, *rows[:-1]), plan, protocol)
    forecast = forecast_of(rates, clock=lambda: now[0], steps={trial.id: 6})
    played(forecast, now, trial.id, (0, "state", "loading"), (0, *step(6, "metrics")), (0, "state", "training"))
    steps = forecast.rates.step[trial.entry] * forecast.rates.rate(trial.entry, "training")
    assert 6 * steps < forecast.left_of(trial.id) < 9 * steps  # to step 12, with a validation
    played(forecast, now, trial.id, (2, "state", "paused"))
    left = forecast.left()
    played(forecast, now, trial.id, (2, "state", "stopped"))
    assert forecast.left() == left
    assert forecast.left_of(trial.id) is None


def test_a_trunk_is_counted_until_the_training_that_stores_it_begins_and_not_for_others_that_read_it():
    plan, protocol, rows, _ = stream("documents")
    rates = measured_before(events(*rows[:-1]), plan, protocol)
    now, last_layers = [0.0], plan.runs[-2]
    one, last = [forecast_of(rates, plan.runs[:end], lambda: now[0]).left() for end in (-2, -1)]
    rates.trunk["lora"] = rates.trunk["last_layers"]  # as if both cut at the same block
    forecast = forecast_of(rates, plan.runs[:-2], lambda: now[0])
    stored = rates.trunk["last_layers"] * rates.rate("last_layers", "training")
    assert stored > 4.0
    assert forecast.left() == one
    assert forecast_of(rates, plan.runs[:-1]).left() > last + 4.0  # where lora has to store it
    played(forecast, now, last_layers.id, (0, "state", "loading"), (1, "state", "storing trunk"))
    before = forecast.left()
    played(forecast, now, last_layers.id, (3, "state", "storing trunk"))
    assert forecast.left() == pytest.approx(before - 3)  # of the other split
    played(forecast, now, last_layers.id, (1, "state", "training"))
    assert forecast.left() == pytest.approx(before - stored)


def test_runs_that_are_only_scored_again_take_what_the_first_of_them_took_and_load_nothing():
    plan, protocol, *_ = stream("documents")
    now, scored, rates = [0.0], plan.runs[-3:], Rates(plan, protocol)
    forecast = forecast_of(rates, plan.runs[:-3], lambda: now[0], again={run.id: "score" for run in scored})
    assert forecast.left() == 0.0
    played(forecast, now, scored[0].id, (0, "state", "scoring"), (0.5, "state", "scoring"), (1.5, "done", {}))
    assert forecast.left() == pytest.approx(4.0)
    assert math.isnan(rates.rate("lora", "loading"))
    played(forecast, now, scored[1].id, (7, "state", "scoring"))
    assert forecast.left_of(scored[1].id) == pytest.approx(2.0)


def test_runs_that_are_only_decoded_again_train_nothing():
    plan, protocol, rows, _ = stream("documents")
    rates, decoded = measured_before(events(*rows[:-1]), plan, protocol), plan.runs[-3:]
    forecast = forecast_of(rates, plan.runs[:-3], again={run.id: "decode" for run in decoded})
    parts = {"loading": 1, "testing": 1, "generating": 300}
    expected = sum(n * rates.rate(run.entry, phase) for run in decoded for phase, n in parts.items())
    assert forecast.left() == pytest.approx(expected)
    assert forecast.basis() is None


def test_a_damaged_plan_ends_no_display():
    planned, protocol, rows, _ = stream("tuned")
    plan = json.loads((STREAMS / "tuned.jsonl").read_text().splitlines()[0])["plan"]
    for entry in plan["entries"].values():
        entry["steps"] = 0
    plan["data"]["splits"]["train"] = {"examples": 1}
    plan["model"]["forward_products"] = {"prompt": 0, "target": 0, "example": 0}
    plan = plan_with(plan).model_copy(update={"runs": planned.runs})
    forecast = forecast_of(Rates(plan, protocol))
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

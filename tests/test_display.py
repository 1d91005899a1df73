import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.display import clock_time
from bakeoff.progress.eta import Forecast
from bakeoff.progress.lines import fitted
from bakeoff.progress.live import LiveDisplay, roughly
from bakeoff.progress.notebook import NotebookDisplay
from bakeoff.progress.open import open_display
from bakeoff.progress.plain import JsonDisplay, NoDisplay, PlainDisplay
from bakeoff.progress.throughput import Rates
from bakeoff.store.events import Start, event_of
from bakeoff.store.records import Run
from bakeoff.tuning.labels import run_names
from tests.conftest import plan_with


def run_of(entry, kind="entry", seed=0):
    return Run(f"{entry}-{seed}", entry, kind, entry, {}, seed, 10)


RUNS = [run_of("base", "baseline"), run_of("lora"), run_of("prompt_tuning")]


class Clock:
    """A clock that tests turn."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


PLAN = {
    "rungs": [],
    "data": {
        "splits": {
            split: {"examples": examples, "prompt_tokens_mean": 30.0, "target_tokens_mean": 10.0}
            for split, examples in (("train", 20), ("validation", 4), ("test", 20))
        }
    },
    "model": {"forward_products": {"prompt": 100, "target": 100, "example": 0}},
    "entries": {
        "lora": {
            # A step of two examples multiplies 2.5 times as much as a validation.
            "step_products": {"prompt": 500, "target": 500, "example": 0},
            "trunk_products": {"prompt": 0, "target": 0, "example": 0},
        }
    },
}


def forecast(runs, clock):
    plan = plan_with(PLAN).model_copy(update={"runs": runs})
    return Forecast(Rates(plan, ProtocolConfig(epochs=1, batch_size=2)), Start(done=[], steps={}), clock)


def live_display(runs, done, target, clock, ahead=None):
    return LiveDisplay(runs, done, ahead, clock, target)


def console(width=80, height=24, terminal=True):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None, legacy_windows=False
    )


def drawn(live):
    target = console(live.console.width, live.console.height)
    target.print(live.render())
    return target.file.getvalue().splitlines()


# What an event has beside what a test is about.
REST = {
    "progress": {"tokens_per_second": 1.0, "seconds_left": 1.0},
    "metrics": {"seconds": 1.0},
    "done": {"costs": {}, "check_notes": {}},
}


def event_with(run, kind, values):
    return event_of({"run": run, "kind": kind, **REST.get(kind, {}), **values})


TRAINING = [
    event_with("lora-0", "state", {"state": "training"}),
    event_with(
        "lora-0",
        "progress",
        {"step": 5, "steps": 10, "tokens_per_second": 1234.5, "train/loss": 2.5, "seconds_left": 61.0},
    ),
    event_with("lora-0", "metrics", {"step": 5, "epoch": 0.5, "train/loss": 2.5, "validation/loss": 2.25}),
]
DONE = event_with(
    "lora-0", "done", {"metrics": {"test/loss": 2.0, "test/rougeL": 0.25}, "costs": {"peak_bytes": 2**30}}
)
FAILED = event_with("lora-0", "failed", {"error": "the loss is nan"})


def test_plain_lines(capsys):
    clock = Clock()
    with PlainDisplay(RUNS, ["base-0"], None, clock) as display:
        clock.now = 83.0
        for event in [*TRAINING, TRAINING[1], DONE]:
            display.handle(event)
        display.note("report: x")
    assert capsys.readouterr().err.splitlines() == [
        "[  0:00] done before: base",
        "[  1:23] lora: training",
        "[  1:23] lora: step 5/10  1,234 tokens/s  1:01 of training left",
        "[  1:23] lora: epoch 0.5  step 5  train/loss 2.5000  validation/loss 2.2500",
        "[  1:23] lora: done  test loss 2.0000  ROUGE-L 0.2500",
        "[  1:23] report: x",
    ]


def test_a_state_is_told_once_however_many_metrics_score(capsys):
    with PlainDisplay(RUNS, [], None, Clock()) as display:
        for metric in ({}, {"metric": "own.py:f"}, {"metric": "own.py:g"}):
            display.handle(event_with("lora-0", "state", {"state": "scoring", **metric}))
    assert capsys.readouterr().err.count("scoring") == 1


def test_a_validation_does_not_begin_the_training_anew(capsys):
    with PlainDisplay(RUNS, [], None, Clock()) as display:
        for state in ("training", "validating", "training", "validating", "training"):
            display.handle(event_with("lora-0", "state", {"state": state}))
    assert capsys.readouterr().err == "[  0:00] lora: training\n"


def test_plain_lines_tell_documents_and_what_is_left_of_the_run_and_of_all(capsys):
    runs, clock = [run_of("lora"), run_of("lora", seed=1)], Clock()
    told = forecast(runs, clock)
    with PlainDisplay(runs, [], told, clock) as display:
        for state, seconds in (("loading", 0), ("training", 0), ("validating", 4), ("training", 0)):
            display.handle(event_with("lora-0", "state", {"state": state}))
            clock.now += seconds
        for step in range(1, 11):
            clock.now += 10.0
            display.handle(event_with("lora-0", "progress", {"step": step, "steps": 10, "tokens_per_second": 5.0,
                                                        "seconds_left": 10.0 * (10 - step)}))  # fmt: skip
        for state, seconds in (("validating", 4), ("saving", 1), ("loading", 2), ("testing", 4), ("generating", 20)):
            display.handle(event_with("lora-0", "state", {"state": state}))
            clock.now += seconds
        display.handle(event_with("lora-0", "progress", {"examples": 10, "examples_total": 20}))
    lines = capsys.readouterr().err.splitlines()
    assert "[  1:34] lora seed 0: step 9/10  5 tokens/s  0:10 of training left" in lines
    assert lines[-1].startswith("[  2:15] lora seed 0: 10/20 documents  0:20 left, about ")


def test_json_lines(capsys):
    with JsonDisplay(RUNS) as display:
        for event in TRAINING:
            display.handle(event)
        display.note("news")
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [row["run"] for row in rows[0]["runs"]] == [run.id for run in RUNS]
    assert rows[1] == {"run": "lora-0", "entry": "lora", "kind": "state", "state": "training"}
    assert rows[-1] == {"kind": "note", "text": "news"}


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {}, LiveDisplay),
        (False, {}, PlainDisplay),
        (True, {"CI": "true"}, PlainDisplay),
        (True, {"TERM": "dumb"}, PlainDisplay),
    ],
)
def test_auto_is_live_only_on_a_terminal_that_can_redraw(monkeypatch, terminal, environment, expected):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert type(open_display("auto", RUNS, console=console(terminal=terminal))) is expected
    assert type(open_display("none", RUNS)) is NoDisplay


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_table_fits_and_tells_what_goes_on(width):
    clock = Clock()
    live = live_display(RUNS, ["base-0"], console(width), clock)
    for event in TRAINING:
        live.handle(event)
    lines = drawn(live)
    assert all(len(line) <= width for line in lines)
    assert len(lines) == 5
    assert "done before" in lines[1]
    assert all(text in lines[2] for text in ("lora", "training", "2.500", "2.250", "1,234"))
    assert ("50%" if width == 80 else "5/10") in lines[2]
    assert ("peak" in lines[0]) == (width == 120)
    assert lines[4].startswith("1 of 3 runs ended")


def test_failures_stay_in_sight_and_time_left_waits_for_a_basis():
    clock = Clock()
    live = live_display(RUNS, [], console(), clock)
    live.handle(TRAINING[0])
    assert "left" not in drawn(live)[-1]
    clock.now = 100.0
    live.handle(FAILED)
    assert "lora failed: the loss is nan" in drawn(live)


def test_failures_take_a_third_of_the_screen_at_most():
    runs = [run_of("lora", seed=i) for i in range(12)]
    live = live_display(runs, [], console(height=15), Clock())
    for run in runs[:10]:
        live.handle(event_with(run.id, "failed", {"error": "a word " * 40}))
    lines = drawn(live)
    assert len(lines) <= 15
    assert all(len(line) <= 80 for line in lines)
    assert sum(" failed: a word" in line for line in lines) == 4
    assert "and 6 more failed" in lines
    assert lines[-1].startswith("10 of 12 runs ended, 10 failed")


def test_what_is_left_stands_in_rows_and_totals():
    runs, clock = [run_of("lora"), run_of("lora", seed=1)], Clock()
    live = live_display(runs, [], console(), clock, forecast(runs, clock))
    for state, seconds in (("loading", 0), ("training", 0), ("validating", 4), ("training", 0)):
        live.handle(event_with("lora-0", "state", {"state": state}))
        clock.now += seconds
        if state == "validating":
            live.handle(event_with("lora-0", "metrics", {"step": 0, "epoch": 0.0}))
    for step in range(1, 11):
        clock.now += 10.0
        live.handle(event_with("lora-0", "progress", {"step": step, "steps": 10, "train/loss": 2.0}))
    assert "left" not in drawn(live)[1]  # nothing tells yet how long a test takes
    for state, seconds in (("validating", 4), ("training", 0), ("saving", 1), ("loading", 2), ("testing", 4)):
        live.handle(event_with("lora-0", "state", {"state": state}))
        clock.now += seconds
        if state == "validating":
            live.handle(event_with("lora-0", "metrics", {"step": 10, "epoch": 1.0}))
    live.handle(event_with("lora-0", "state", {"state": "generating"}))
    clock.now += 10.0
    live.handle(event_with("lora-0", "progress", {"examples": 10, "examples_total": 20}))
    lines = drawn(live)
    assert lines[1].endswith("0:10 left")
    clock.now += 10.0
    live.handle(event_with("lora-0", "progress", {"examples": 20, "examples_total": 20}))
    live.handle(DONE)
    # the other seed: 10 steps of 10 s, two validations of 4, saving 1, loading 2, test 4, 20 documents of 1
    assert live.left() == pytest.approx(100 + 8 + 1 + 2 + 4 + 20)
    assert "about 2:15 left, until " in drawn(live)[-1]
    live.left = lambda: 1e15  # no day has a time for it
    assert drawn(live)[-1].endswith(" left")


@pytest.mark.parametrize(
    ("text", "width", "left", "shown"),
    [
        ("lora", 6, True, "lora  "),
        ("12", 5, False, "   12"),
        ("a long name", 6, True, "a lon…"),
        ("日本語の名", 5, True, "日本…"),
        ("日本語の名", 4, False, "日 …"),
        ("a\x1b[2J", 9, True, r"a\x1b[2J "),
    ],
)
def test_a_cell_has_exactly_its_width(text, width, left, shown):
    assert fitted(text, width, left) == shown
    assert cell_len(shown) == width


def test_many_runs_fold():
    runs = [run_of("lora", seed=i) for i in range(30)]
    live = live_display(runs, [r.id for r in runs[:20]], console(height=15), Clock())
    live.handle(event_with("lora-20", "state", {"state": "training"}))
    lines = drawn(live)
    assert len(lines) <= 15
    assert any("lora seed 20" in line and "training" in line for line in lines)
    assert any(line.startswith("and 19 more: 19 done before") for line in lines)


def test_what_ended_last_comes_before_most_of_what_waits():
    clock = Clock()
    live = live_display([run_of("lora", seed=i) for i in range(30)], [], console(height=12), clock)
    for number in range(10):
        clock.now += 1
        live.handle(event_with(f"lora-{number}", "done", {"metrics": {"test/loss": 2.0 + number}}))
    live.handle(event_with("lora-10", "state", {"state": "training"}))
    shown = [line.split()[2:4] for line in drawn(live) if line.startswith("lora seed")]
    work, waiting = [["10", "training"]], [[str(i), "waiting"] for i in (11, 12, 13)]
    assert shown == [[str(i), "done"] for i in (6, 7, 8, 9)] + work + waiting
    assert any(line.startswith("and 22 more: 6 done, 16 waiting") for line in drawn(live))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_nothing_moves_or_is_cut_where_numbers_are_large(width):
    live = live_display([run_of("lora")], [], console(width), Clock())
    before = drawn(live)[0]
    live.handle(event_with("lora-0", "progress", {"step": 12000, "steps": 36000, "tokens_per_second": 123456.7}))
    losses = {"train/loss": 12345.6, "validation/loss": 12.3456}
    live.handle(event_with("lora-0", "metrics", {**losses, "epoch": 1, "step": 12000}))
    live.rows["lora-0"].started = -40_000.0
    live.handle(event_with("lora-0", "done", {"metrics": {"test/loss": 2e6}}))
    lines = drawn(live)
    assert lines[0] == before
    assert "12346 12.35 2e+06" in lines[1]
    assert lines[1].endswith("11:06:40")
    assert width < 78 or "123k" in lines[1]
    assert width < 120 or "12,000/36,000" in lines[1]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(59.6, "1:00"), (3599.4, "59:59"), (3599.6, "1h00"), (35_000, "9h43"), (40_000, "11h")]
)
def test_what_is_left_is_short(seconds, shown):
    assert roughly(seconds) == shown


def test_times_are_read_as_clocks():
    assert [clock_time(s) for s in (0, 61, 3661.4)] == ["0:00", "1:01", "1:01:01"]


def trial(number, rate):
    return Run(f"lora-t{number}", "lora", "trial", "lora", {"r": 4, "learning_rate": rate}, 0, 10, number)


def test_trials_are_named_by_what_is_searched_and_rest_between_their_parts(capsys):
    clock = Clock()
    runs = [trial(1, 3e-4), trial(2, 1e-3), *(run_of("lora", seed=i) for i in range(2))]
    with PlainDisplay(runs, [], None, clock) as plain:
        plain.handle(event_with("lora-t2", "state", {"state": "stopped"}))
        plain.add(trial(3, 3e-3))
        plain.handle(event_with("lora-t3", "done", {"metrics": {"validation/loss": 2.0}}))
        plain.handle(event_with("lora-1", "state", {"state": "training"}))
    assert capsys.readouterr().err.splitlines() == [
        "[  0:00] lora trial 2: learning_rate 0.001: stopped",
        "[  0:00] lora trial 3: learning_rate 0.003: done  validation loss 2.0000",
        "[  0:00] lora seed 1: training",
    ]
    live = live_display(runs, [], console(120), clock)
    for start, state in ((0.0, "training"), (60.0, "paused"), (1000.0, "training"), (1030.0, "paused")):
        clock.now = start
        live.handle(event_with("lora-t1", "state", {"state": state}))
    live.add(trial(3, 3e-3))
    live.handle(event_with("lora-t1", "state", {"state": "stopped"}))
    lines = drawn(live)
    names = [
        "lora trial 1: learning_rate 0.0003",
        "lora trial 2: learning_rate 0.001",
        "lora trial 3: learning_rate 0.003",
        "lora seed 0",
        "lora seed 1",
    ]
    assert all(line.startswith(name) for line, name in zip(lines[1:6], names, strict=True))
    assert "stopped" in lines[1]
    assert "1:30" in lines[1]
    assert lines[-1].startswith("1 of 5 runs ended")


def test_a_notebook_gets_html_in_place(capsys):
    pages = []
    display = NotebookDisplay(RUNS, [], None, Clock(), pages.append)
    display.note("5 documents <cut>")
    for event in TRAINING:
        display.handle(event)
    assert "5 documents &lt;cut&gt;" in pages[-1]
    assert all(text in pages[-1] for text in ("lora", "training", "2.250", "<pre"))
    assert capsys.readouterr() == ("", "")


def test_a_whole_number_that_is_searched_is_no_power_of_ten():
    runs = [
        Run(f"r{i}", "lora", "trial", "lora", {"r": r, "learning_rate": 1e-3 * i}, 0, trial=i)
        for i, r in enumerate((128, 64), start=1)
    ]
    assert run_names(runs)["r1"] == "lora trial 1: r 128, learning_rate 0.001"

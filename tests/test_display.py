import io
import json

import pytest
from rich.console import Console

from bakeoff.display import JsonDisplay, NoDisplay, PlainDisplay, clock_time, open_display
from bakeoff.live import LiveDisplay
from bakeoff.records import Event, Run


def run_of(entry, kind="entry", seed=0):
    return Run(f"{entry}-{seed}", entry, kind, entry, {}, seed, 10)


RUNS = [run_of("base", "baseline"), run_of("lora"), run_of("prompt_tuning")]


class Clock:
    """A clock that tests turn."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def console(width=80, height=24, terminal=True):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None, legacy_windows=False
    )


def drawn(live):
    target = console(live.console.width, live.console.height)
    target.print(live.render())
    return target.file.getvalue().splitlines()


TRAINING = [
    Event("lora-0", "state", {"state": "training"}),
    Event(
        "lora-0",
        "progress",
        {"step": 5, "steps": 10, "tokens_per_second": 1234.5, "train/loss": 2.5, "seconds_left": 61.0},
    ),
    Event("lora-0", "metrics", {"step": 5, "epoch": 0.5, "train/loss": 2.5, "validation/loss": 2.25}),
]
DONE = Event("lora-0", "done", {"metrics": {"test/loss": 2.0, "test/rougeL": 0.25}, "costs": {"peak_bytes": 2**30}})
FAILED = Event("lora-0", "failed", {"error": "the loss is nan"})


def test_plain_lines(capsys):
    clock = Clock()
    with PlainDisplay(RUNS, ["base-0"], clock) as display:
        clock.now = 83.0
        for event in [*TRAINING, TRAINING[1], DONE]:
            display.handle(event)
        display.note("report: x")
    assert capsys.readouterr().err.splitlines() == [
        "[  0:00] done before: base",
        "[  1:23] lora: training",
        "[  1:23] lora: step 5/10  1,234 tokens/s  1:01 left",
        "[  1:23] lora: epoch 0.5  step 5  train/loss 2.5000  validation/loss 2.2500",
        "[  1:23] lora: done  test loss 2.0000  ROUGE-L 0.2500",
        "[  1:23] report: x",
    ]


def test_json_lines(capsys):
    with JsonDisplay(RUNS) as display:
        for event in TRAINING:
            display.handle(event)
        display.note("news")
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert rows[0] == {"run": "lora-0", "entry": "lora", "kind": "state", "state": "training"}
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
    live = LiveDisplay(RUNS, ["base-0"], console(width), clock)
    for event in TRAINING:
        live.handle(event)
    lines = drawn(live)
    assert all(len(line) <= width for line in lines)
    assert len(lines) == 5
    assert "done before" in lines[1]
    assert all(text in lines[2] for text in ("lora", "training  50 %", "2.500", "2.250", "1:01"))
    assert "1,234" in lines[2]
    assert ("peak" in lines[0]) == (width == 120)
    assert lines[4].startswith("1 of 3 runs ended")


def test_failures_stay_in_sight_and_time_left_waits_for_a_basis():
    clock = Clock()
    live = LiveDisplay(RUNS, [], console(), clock)
    live.handle(TRAINING[0])
    assert "left" not in drawn(live)[-1]
    clock.now = 100.0
    live.handle(FAILED)
    assert "lora failed: the loss is nan" in drawn(live)
    again = LiveDisplay(RUNS, [], console(), clock)
    again.handle(TRAINING[0])
    clock.now = 200.0
    again.handle(DONE)
    assert "about 1:40 left" in drawn(again)[-1]


def test_many_runs_fold():
    runs = [run_of("lora", seed=i) for i in range(30)]
    live = LiveDisplay(runs, [r.id for r in runs[:20]], console(height=15), Clock())
    live.handle(Event("lora-20", "state", {"state": "training"}))
    lines = drawn(live)
    assert len(lines) <= 15
    assert any("lora seed 20" in line and "training" in line for line in lines)
    assert any(line.startswith("and 20 more runs") for line in lines)


def test_times_are_read_as_clocks():
    assert [clock_time(s) for s in (0, 61, 3661.4)] == ["0:00", "1:01", "1:01:01"]


def trial(number, rate):
    return Run(f"lora-t{number}", "lora", "trial", "lora", {"r": 4, "learning_rate": rate}, 0, 10, number)


def test_trials_are_named_by_what_is_searched_and_rest_between_their_parts(capsys):
    clock = Clock()
    runs = [trial(1, 3e-4), trial(2, 1e-3), *(run_of("lora", seed=i) for i in range(2))]
    with PlainDisplay(runs, [], clock) as plain:
        plain.handle(Event("lora-t2", "state", {"state": "stopped"}))
        plain.add(trial(3, 3e-3))
        plain.handle(Event("lora-t3", "done", {"metrics": {"validation/loss": 2.0}}))
        plain.handle(Event("lora-1", "state", {"state": "training"}))
    assert capsys.readouterr().err.splitlines() == [
        "[  0:00] lora trial 2: learning_rate 0.001: stopped",
        "[  0:00] lora trial 3: learning_rate 0.003: done  validation loss 2.0000",
        "[  0:00] lora seed 1: training",
    ]
    live = LiveDisplay(runs, [], console(120), clock)
    for start, state in ((0.0, "training"), (60.0, "paused"), (1000.0, "training"), (1030.0, "paused")):
        clock.now = start
        live.handle(Event("lora-t1", "state", {"state": state}))
    live.add(trial(3, 3e-3))
    live.handle(Event("lora-t1", "state", {"state": "stopped"}))
    lines = drawn(live)
    assert [line.split("  ")[0] for line in lines[1:6]] == [
        "lora trial 1: learning_rate 0.0003",
        "lora trial 2: learning_rate 0.001",
        "lora trial 3: learning_rate 0.003",
        "lora seed 0",
        "lora seed 1",
    ]
    assert "stopped" in lines[1]
    assert "1:30" in lines[1]
    assert lines[-1].startswith("1 of 5 runs ended")

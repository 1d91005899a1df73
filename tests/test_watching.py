import fcntl
import json
import shutil
import threading
import time

import pytest

from bakeoff.errors import SetupError
from bakeoff.progress.session import plan_hash
from bakeoff.progress.watch import watch
from bakeoff.store.event_log import EventLog, Reader, earlier_events
from bakeoff.store.events import Progress, Start, State
from bakeoff.store.files import append_jsonl, write_jsonl
from bakeoff.store.lock import locked
from bakeoff.store.run_folder import Folder

START = Start(done=[], steps={})


def wait_for(capsys, text):
    """Return what was shown until `text` is in it."""
    said, until = "", time.monotonic() + 20
    while text not in said and time.monotonic() < until:
        time.sleep(0.01)
        said += capsys.readouterr().err
    assert text in said
    return said


def test_a_finished_bakeoff_is_shown_and_nothing_is_written(copied, capsys):
    before = {file: file.read_bytes() for file in copied.path.rglob("*") if file.is_file()}
    watch(copied, "plain")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines if "lora: training" in line]
    assert [line for line in lines if "lora: done  test loss" in line]
    assert {file: file.read_bytes() for file in copied.path.rglob("*") if file.is_file()} == before


def test_a_bakeoff_that_goes_on_is_followed_to_its_end(copied, capsys):
    lines = copied.events_file.read_text().splitlines(keepends=True)
    middle = next(i for i, line in enumerate(lines) if '"kind": "done"' in line)
    copied.events_file.write_text("".join(lines[:middle]) + lines[middle][:20])
    with copied.lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        watching = threading.Thread(target=watch, args=(copied, "json"))
        watching.start()
        said = wait_for(capsys, '"kind": "start"')
        with copied.events_file.open("a") as file:
            file.write(lines[middle][20:] + "".join(lines[middle + 1 :]))
        watching.join(20)
    assert not watching.is_alive()
    shown = [json.loads(line) for line in (said + capsys.readouterr().err).splitlines()]
    kinds = [json.loads(line)["kind"] for line in lines]
    assert [row["kind"] for row in shown] == kinds[:-1]  # its end is the view's end


def test_a_bakeoff_that_is_being_planned_is_waited_for(copied, tmp_path, capsys):
    folder = Folder(tmp_path / "planned")
    folder.path.mkdir()
    with folder.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        watching = threading.Thread(target=watch, args=(folder, "plain"))
        watching.start()
        watching.join(1.0)
        assert watching.is_alive()
        later = shutil.ignore_patterns(".lock", copied.events_file.name)
        shutil.copytree(copied.path, folder.path, dirs_exist_ok=True, ignore=later)
        shutil.copy(copied.events_file, folder.events_file)
    watching.join(20)
    assert not watching.is_alive()
    said = capsys.readouterr().err
    assert said.count("being planned") == 1
    assert "lora: done  test loss" in said


def test_a_session_that_is_being_planned_after_another_is_waited_for(copied, capsys):
    rows = [json.loads(line) for line in copied.events_file.read_text().splitlines()]
    with locked(copied.lock_file):
        watching = threading.Thread(target=watch, args=(copied, "plain"))
        watching.start()
        said = wait_for(capsys, "being planned")
        assert "lora" not in said  # nothing of the session before
        for row in rows:
            append_jsonl(copied.events_file, {**row, "time": time.time()})
    watching.join(20)
    assert not watching.is_alive()
    assert capsys.readouterr().err.count("lora: done  test loss") == 1


def test_a_session_that_is_being_planned_after_one_that_was_killed_is_waited_for(copied, capsys):
    rows = [json.loads(line) for line in copied.events_file.read_text().splitlines()]
    write_jsonl(copied.events_file, rows[:-3])  # killed: no end
    with locked(copied.lock_file):
        watching = threading.Thread(target=watch, args=(copied, "plain"))
        watching.start()
        said = wait_for(capsys, "being planned")
        time.sleep(1.0)  # it looks again every half second
        assert "lora" not in said + capsys.readouterr().err  # nothing of the session before
        for row in rows:
            append_jsonl(copied.events_file, {**row, "time": time.time()})
    watching.join(20)
    assert not watching.is_alive()
    assert capsys.readouterr().err.count("lora: done  test loss") == 1


def test_a_session_with_other_entries_that_follows_a_killed_one_is_shown_by_its_own_plan(copied, capsys):
    lines = copied.events_file.read_text().splitlines(keepends=True)
    runs = {run.entry: run.id for run in copied.runs()}
    killed = next(i for i, line in enumerate(lines) if runs["lora"] in line)
    copied.events_file.write_text("".join(lines[:killed]))
    with locked(copied.lock_file):
        copied.lock_file.write_text("")  # of a process that began before these lines
        watching = threading.Thread(target=watch, args=(copied, "json"))
        watching.start()
        wait_for(capsys, runs["last_layers"])
        before, plan = copied.plan(), copied.plan().row()  # lora renamed, prompt_tuning removed
        plan["runs"] = [row for row in plan["runs"] if row["entry"] != "prompt_tuning"]
        plan["entries"]["renamed"] = plan["entries"].pop("lora")
        plan["runs"] = [{**r, "entry": "renamed"} if r["entry"] == "lora" else r for r in plan["runs"]]
        copied.plan_file.write_text(json.dumps(plan).replace(runs["lora"], "renamed-1"))
        with copied.events_file.open("a") as file:
            # what the killed session wrote last is read beside the new plan
            now = [(runs["lora"], "renamed-1"), (plan_hash(before), plan_hash(copied.plan()))]
            file.writelines([lines[killed], *(line.replace(*now[0]).replace(*now[1]) for line in lines)])
        watching.join(20)  # its end is seen although the lock is still held
    assert not watching.is_alive()
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line]
    start = next(i for i, row in enumerate(shown) if row["kind"] == "start")
    assert {row["run"] for row in shown[start:] if row["kind"] == "done"} == {
        *(run for entry, run in runs.items() if entry not in ("lora", "prompt_tuning")),
        "renamed-1",
    }


def test_a_killed_bakeoff_is_not_waited_for(copied, capsys):
    lines = copied.events_file.read_text().splitlines(keepends=True)
    copied.events_file.write_text("".join(lines[:-1]))
    watch(copied, "none")


def test_a_folder_without_a_bakeoff_says_so(copied):
    with pytest.raises(SetupError, match=r"not a run folder of bakeoff"):
        watch(Folder(copied.path / "runs"))
    copied.events_file.unlink()
    with pytest.raises(SetupError, match=r"no bakeoff has run here yet"):
        watch(copied)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(SetupError, match="runs/gone: no such folder. Try"):
        watch(Folder(tmp_path / "runs" / "gone"), "plain")


def test_a_file_is_no_bakeoff_to_look_at(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b\n")
    with pytest.raises(SetupError, match=r"mine.csv: not a run folder of bakeoff"):
        watch(Folder(tmp_path / "mine.csv"))


def test_an_interrupt_is_a_line_for_those_who_look_on(copied, capsys):
    with pytest.raises(KeyboardInterrupt), EventLog(copied.events_file).session(START):
        raise KeyboardInterrupt
    watch(copied, "plain")
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_the_journal_holds_everything_but_progress_that_comes_fast(tmp_path):
    now, rest = [100.0], {"steps": 9, "tokens_per_second": 1.0, "seconds_left": 1.0}
    journal = EventLog(tmp_path / "events.jsonl", lambda: now[0])
    with journal.session(START.model_copy(update={"done": ["a"], "steps": {"b": 3}})):
        for step in range(1, 6):
            journal.handle(Progress(run="b", step=step, **rest))
            now[0] += 1.0
        journal.handle(State(run="b", state="validating"))
        journal.handle(Progress(run="b", step=6, **rest))
    reader = Reader(tmp_path / "events.jsonl")
    events = list(reader.new_events())
    assert events[0] == START.model_copy(update={"time": 100.0, "done": ["a"], "steps": {"b": 3}})
    assert [getattr(event, "step", None) for event in events] == [None, 1, 3, 5, None, 6, None]
    assert list(reader.new_events()) == []


def test_a_machine_whose_clock_is_set_back_writes_times_that_go_on(tmp_path, monkeypatch):
    journal, reader = EventLog(tmp_path / "events.jsonl"), Reader(tmp_path / "events.jsonl")
    journal.note("before")
    monkeypatch.setattr(time, "time", lambda: 5.0)
    journal.note("after")
    before, after = (event.time for event in reader.new_events())
    assert 0 <= after - before < 60


def test_a_line_that_a_crash_tore_is_replaced_by_the_next(tmp_path):
    journal, reader = EventLog(tmp_path / "events.jsonl"), Reader(tmp_path / "events.jsonl")
    journal.note("one")
    with journal.file.open("a") as file:
        file.write('{"time": 1.5, "kind": "no')
    assert [event.text for event in reader.new_events()] == ["one"]
    journal.note("two")
    journal.note("three")
    assert [event.text for event in reader.new_events()] == ["two", "three"]


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_damaged_lines_of_the_journal_are_passed_over_with_one_note(copied, capsys, kind):
    lines = copied.events_file.read_bytes().splitlines(keepends=True)
    middle = next(i for i, line in enumerate(lines) if b'"kind": "done"' in line)
    lines[middle:middle] = [bytes(4096) + b"\n", b'{"time": 1.5, "kind": "noise"}\n']
    copied.events_file.write_bytes(b"".join(lines))
    watch(copied, kind)
    said = capsys.readouterr().err
    assert said.count(f"{copied.events_file}: 2 damaged lines ignored") == 1
    assert f"lora: done{' ' * 2}test loss" in said or '"kind": "done"' in said


def test_a_journal_with_no_readable_line_is_one_note(copied, capsys):
    copied.events_file.write_bytes(b"\0\n")
    watch(copied, "plain")
    (line,) = capsys.readouterr().err.splitlines()
    assert "events.jsonl: 1 damaged line ignored" in line


def test_a_forecast_takes_nothing_of_a_journal_from_its_first_damage_on(copied):
    whole = list(earlier_events(copied.events_file))
    lines = copied.events_file.read_bytes().splitlines(keepends=True)
    copied.events_file.write_bytes(b"".join([*lines[:3], b"{\n", *lines[3:]]))
    assert list(earlier_events(copied.events_file)) == whole[:3]


@pytest.mark.parametrize("replaced", [True, False])
def test_lines_of_a_session_whose_plan_was_replaced_are_shown_under_no_other_plan(copied, capsys, replaced):
    """The next session has written its plan, and the log still ends with the session before."""
    rows = [json.loads(line) for line in copied.events_file.read_text().splitlines()]
    plan = plan_hash(copied.plan())
    assert {row["plan"] for row in rows if row["kind"] == "start"} == {plan}
    if replaced:
        copied.events_file.write_text(copied.events_file.read_text().replace(plan, "0000000000"))
    watch(copied, "plain")
    assert ("lora: done" in capsys.readouterr().err) != replaced

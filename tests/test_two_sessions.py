"""What is there between two sessions of a bakeoff, or beside one that runs: looked at from outside, and resumed."""

import json
import shutil
import threading

import pytest
import yaml

import bakeoff
from bakeoff import reporting, running
from bakeoff.analysis import summary
from bakeoff.driver import resume
from bakeoff.driver.trust import is_own
from bakeoff.errors import ConfigError, SetupError
from bakeoff.progress.watch import watch
from bakeoff.store.files import write_json
from bakeoff.store.lock import in_turn, locked
from bakeoff.store.ownership import data_files
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline, inline
from tests.test_watching import wait_for


class Ended(BaseException):
    """The process ends here."""


def end(*_):
    raise Ended


def test_a_config_that_is_none_of_the_plans_changes_nothing_that_is_shown(shared, copied, tmp_path):
    """As a session leaves it that was killed between writing the two, or a person who edits it."""
    _, results = shared
    config = yaml.safe_load(copied.config_file.read_text())
    other = {**config["protocol"], "epochs": 9, "seeds": 5}
    config |= {"baselines": ["lead-1", "base", "lead-2"], "protocol": other, "tune": {"trials": 3}}
    copied.config_file.write_text(yaml.safe_dump(config))
    copied.results_file.unlink()
    assert bakeoff.load_results(copied.path).document == results.document
    reporting.refresh_report(copied.path)
    assert "epochs: 9" not in copied.report_file.read_text()
    copied.config_file.write_text("{")
    assert bakeoff.load_results(copied.path).document == results.document
    watch(copied, "none")


def test_a_config_that_is_edited_while_its_bakeoff_runs_changes_no_run(shared, tmp_path, monkeypatch):
    config, results = shared
    edited = {"epochs": 9, "max_tokens": 48, "evaluate_every": 3, "seeds": 1}

    def edit(path, tasks, _):
        for task in tasks:
            words = yaml.safe_load(Folder(path).config_file.read_text())
            Folder(path).config_file.write_text(yaml.safe_dump({**words, "protocol": edited}))
            yield from inline(path, [task])

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(edit))
    found = bakeoff.run({**config, "output": str(tmp_path / "out")}, display="none")
    for name, row in results.entries.items():
        assert (found.entries[name].steps, found.entries[name].metrics) == (row.steps, row.metrics)


def test_a_plan_of_no_config_is_one_line(copied):
    plan = copied.plan().row()
    plan["config"]["protocol"]["epochs"] = "two"
    write_json(copied.plan_file, plan)
    with pytest.raises(ConfigError, match=r"plan.json: config: protocol.epochs: expected a whole number, got 'two'"):
        bakeoff.load_results(copied.path)


@pytest.mark.parametrize("killed_at", ["write_json", "renew_environment"])
def test_examples_of_another_session_are_never_taken_for_the_plans(shared, copied, tmp_path, monkeypatch, killed_at):
    """A session with other data is killed while it writes them, or after it, before there is its plan."""
    config, results = shared
    file = tmp_path / "test.jsonl"
    rows = [json.loads(line) for line in copied.examples_file("test").read_text().splitlines()]
    file.write_text("".join(json.dumps({"document": "ba be", "summary": row["summary"]}) + "\n" for row in rows))

    other = {**config, "output": str(copied.path), "data": {**config["data"], "test": str(file)}}
    with monkeypatch.context() as patch:
        patch.setattr(resume, killed_at, end)
        with pytest.raises(Ended):
            bakeoff.run(other, display="none")
    copied.results_file.unlink()
    with pytest.raises(SetupError, match=r"its examples do not match its plan. Try: bakeoff run again"):
        bakeoff.load_results(copied.path)
    again = bakeoff.run({**config, "output": str(copied.path)}, display="none")
    assert again.document.entries == results.document.entries


def test_what_runs_can_be_shown_planned_and_reported_meanwhile(shared, copied):
    config, results = shared
    before = {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file() and path.name != ".lock"}
    with locked(copied.lock_file):
        assert bakeoff.load_results(copied.path).document == results.document
        assert bakeoff.plan({**config, "output": str(copied.path)})["name"] == "shared"
        after = {path: path.read_bytes() for path in before}
        assert after == before
        assert reporting.refresh_report(copied.path).exists()


def test_a_folder_that_is_moved_ends_a_watch(copied, tmp_path, capsys):
    lines = copied.events_file.read_text().splitlines(keepends=True)
    copied.events_file.write_text("".join(lines[:-1]))
    with locked(copied.lock_file):
        copied.lock_file.write_text("")  # of a process that began before these lines
        watching = threading.Thread(target=watch, args=(copied, "plain"))
        watching.start()
        wait_for(capsys, "lora: done")
        shutil.move(copied.path, tmp_path / "moved")
        watching.join(20)
    assert not watching.is_alive()


def test_other_trials_of_an_older_search_change_no_record_of_the_new_one(tiny_config, tmp_path):
    """A point that both searches try went to the end in the older one, and stops early in the new one."""
    searched = {
        "lora_dropout": {"low": 0.0, "high": 0.5, "scale": "linear"},
        "learning_rate": {"low": 1e-5, "high": 0.1},
    }
    config = {**tiny_config, "entries": {"lora": {"r": 2, **searched}}, "baselines": ["base"]}
    one, four = {"trials": 1}, {"trials": 4}
    fresh = bakeoff.run({**config, "tune": four, "output": str(tmp_path / "fresh")}, display="none")
    bakeoff.run({**config, "tune": one}, display="none")
    resumed = bakeoff.run({**config, "tune": four}, display="none")
    found = [r.entries["lora"].tuning.row() | {"seconds": 0} for r in (fresh, resumed)]
    assert found[0] == found[1]
    assert found[0]["trials"][0]["steps"] < max(trial["steps"] for trial in found[0]["trials"])  # it does stop early


def test_a_report_beside_a_run_does_not_replace_the_runs_last_one(copied, monkeypatch):
    """It read the records before the last run ended, and would write after it: each writes what it read alone."""
    summarized, order = summary.summarize, []
    reading, may_go_on = threading.Event(), threading.Event()

    def slow(folder):
        order.append("read")
        found = summarized(folder)
        reading.set()
        if len(order) == 1:
            may_go_on.wait(20)
        return found

    def write(folder, document):
        order.append("written")

    monkeypatch.setattr(summary, "summarize", slow)
    monkeypatch.setattr(reporting, "write_json", write)
    first = threading.Thread(target=reporting.refresh_report, args=(copied.path,))
    first.start()
    assert reading.wait(20)
    second = threading.Thread(target=reporting.write_results, args=(copied,))
    second.start()
    second.join(0.3)
    assert order == ["read"]
    may_go_on.set()
    first.join(20)
    second.join(20)
    assert order == ["read", "written"] * 2


def test_a_report_that_hangs_holds_up_no_run(copied, monkeypatch):
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.05)
    with in_turn(copied.runs_folder, 1.0):
        assert reporting.write_results(copied)[0].exists()


def test_a_session_killed_before_it_wrote_its_config_leaves_the_folder_ones_own(shared, copied, monkeypatch):
    config, _ = shared
    assert is_own(copied)
    other = {**config, "output": str(copied.path), "protocol": {**config["protocol"], "seeds": 2}}
    for seeds in (2, 3):  # twice in a row
        other["protocol"]["seeds"] = seeds
        with monkeypatch.context() as patch:
            patch.setattr(resume, "write_text", end)
            with pytest.raises(Ended):
                bakeoff.run(other, display="none")
        assert is_own(copied)
    copied.config_file.write_text(copied.config_file.read_text() + "# edited\n")
    assert not is_own(copied)


def test_what_an_older_version_left_before_it_had_a_plan_is_refused_by_its_name(tiny_config):
    folder = Folder(tiny_config["output"])
    for file in (folder.lock_file, folder.config_file, *data_files(folder)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(
        SetupError, match="contains files that an older version of bakeoff leaves when it is killed"
    ) as caught:
        bakeoff.run(tiny_config, display="none")
    assert "Try: remove them, or -s output=FOLDER" in str(caught.value)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_trunk_that_another_version_stored_is_not_served(shared, copied, monkeypatch):
    config, _ = shared
    left = copied.trunk / "train-1-fp32.bin"

    def resumed(**other):
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"left by a killed session")
        copied.environment_file.write_text(json.dumps(copied.environment() | other))
        with monkeypatch.context() as patch:
            patch.setattr(running, "EventLog", end)
            with pytest.raises(Ended):
                bakeoff.run({**config, "output": str(copied.path)}, display="none")
        return left.exists()

    assert resumed()
    assert not resumed(torch="1.0")


def kept(folder):
    """Return all that a session must not change before it has a plan: its lock and its tokens aside."""
    files = (path for path in folder.path.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name != ".lock" and path.suffix != ".bin"}


def test_a_bakeoff_that_ran_while_another_was_starting_is_not_replaced(shared, tmp_path, monkeypatch):
    """Both found the folder free; the second has its turn after the first has ended."""
    config, results = shared
    folder = Folder(tmp_path / "out")
    monkeypatch.setattr("bakeoff.hub.fetch", lambda *_: shutil.copytree(results.folder.path, folder.path))
    with pytest.raises(SetupError, match="contains another bakeoff, 'shared'"):
        bakeoff.run({**config, "name": "other", "output": str(folder.path)}, display="none")
    before = {path.relative_to(results.folder.path): content for path, content in kept(results.folder).items()}
    assert {path.relative_to(folder.path): content for path, content in kept(folder).items()} == before


@pytest.mark.parametrize("left", [None, "{"])
def test_runs_whose_plan_is_lost_keep_all_that_belongs_to_them(shared, copied, left):
    config, results = shared
    copied.plan_file.unlink()
    if left:
        copied.plan_file.write_text(left)
    before = kept(copied)
    mine = {**config, "output": str(copied.path)}
    with pytest.raises(SetupError, match="contains another bakeoff, 'shared'"):
        bakeoff.run({**mine, "name": "other"}, display="none")
    with pytest.raises(bakeoff.BakeoffError, match="no room for the document"):
        bakeoff.run(mine, {"generation.max_new_tokens": 60}, display="none")
    assert kept(copied) == before
    assert bakeoff.run(mine, display="none").document.entries == results.document.entries

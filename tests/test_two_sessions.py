"""What is there between two sessions of a bakeoff, or beside one that runs: looked at from outside, and resumed."""

import json
import shutil
import threading

import pytest
import yaml

import bakeoff
from bakeoff import api, identity
from bakeoff.errors import SetupError
from bakeoff.lock import locked
from bakeoff.watching import watch
from tests.conftest import Inline
from tests.test_watching import wait_for


class Ended(BaseException):
    """The process ends here."""


def test_a_config_that_names_other_baselines_than_the_plan_is_shown(copied):
    """As a session leaves it that was killed between writing the two."""
    config = yaml.safe_load(copied.config_file.read_text())
    copied.config_file.write_text(yaml.safe_dump({**config, "baselines": ["lead-1", "base", "lead-2"]}))
    copied.results_file.unlink()
    baselines = bakeoff.load_results(copied.path).document["baselines"]
    assert list(baselines) == ["lead-1", "base", "few-shot-2", "oracle"]


@pytest.mark.parametrize("killed_at", ["write_json", "renew_environment"])
def test_examples_of_another_session_are_never_taken_for_the_plans(shared, copied, tmp_path, monkeypatch, killed_at):
    """A session with other data is killed while it writes them, or after it, before there is its plan."""
    config, results = shared
    file = tmp_path / "test.jsonl"
    rows = [json.loads(line) for line in copied.examples_file("test").read_text().splitlines()]
    file.write_text("".join(json.dumps({"document": "ba be", "summary": row["summary"]}) + "\n" for row in rows))
    monkeypatch.setattr(api, "LocalExecutor", Inline)

    def end(*_):
        raise Ended

    other = {**config, "output": str(copied.path), "data": {**config["data"], "test": str(file)}}
    with monkeypatch.context() as patch:
        patch.setattr(identity, killed_at, end)
        with pytest.raises(Ended):
            bakeoff.run(other, display="none")
    copied.results_file.unlink()
    with pytest.raises(SetupError, match=r"its examples are not those of its plan yet. Try: bakeoff run again"):
        bakeoff.load_results(copied.path)
    again = bakeoff.run({**config, "output": str(copied.path)}, display="none")
    assert again.document["entries"] == results.document["entries"]


def test_what_runs_can_be_shown_planned_and_reported_meanwhile(shared, copied):
    config, results = shared
    before = {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file() and path.name != ".lock"}
    with locked(copied.lock_file):
        assert bakeoff.load_results(copied.path).document == results.document
        assert bakeoff.plan({**config, "output": str(copied.path)})["name"] == "shared"
        after = {path: path.read_bytes() for path in before}
        assert after == before
        assert api.refresh_report(copied.path).exists()


def test_a_folder_that_is_moved_ends_a_watch(copied, tmp_path, capsys):
    lines = copied.events_file.read_text().splitlines(keepends=True)
    copied.events_file.write_text("".join(lines[:-1]))
    with locked(copied.lock_file):
        watching = threading.Thread(target=watch, args=(copied, "plain"))
        watching.start()
        wait_for(capsys, "lora: done")
        shutil.move(copied.path, tmp_path / "moved")
        watching.join(20)
    assert not watching.is_alive()


def test_other_trials_of_an_older_search_change_no_record_of_the_new_one(tiny_config, tmp_path, monkeypatch):
    """A point that both searches try went to the end in the older one, and stops early in the new one."""
    monkeypatch.setattr(api, "LocalExecutor", Inline)
    searched = {
        "lora_dropout": {"low": 0.0, "high": 0.5, "scale": "linear"},
        "learning_rate": {"low": 1e-5, "high": 0.1},
    }
    config = {**tiny_config, "entries": {"lora": {"r": 2, **searched}}, "baselines": ["base"]}
    one, four = {"trials": 1}, {"trials": 4}
    fresh = bakeoff.run({**config, "tune": four, "output": str(tmp_path / "fresh")}, display="none")
    bakeoff.run({**config, "tune": one}, display="none")
    resumed = bakeoff.run({**config, "tune": four}, display="none")
    found = [{**r.entries["lora"]["tuning"], "seconds": 0} for r in (fresh, resumed)]
    assert found[0] == found[1]
    assert found[0]["trials"][0]["steps"] < max(trial["steps"] for trial in found[0]["trials"])  # it does stop early

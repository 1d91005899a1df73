"""A bakeoff's folder: what is another's is left alone, what is its own is gone on with."""

import os
from pathlib import Path

import pytest

import bakeoff
from bakeoff import api
from bakeoff.errors import SetupError
from bakeoff.records import Folder


def test_a_finished_bakeoff_is_not_run_again(shared, copied):
    config, results = shared
    times = {p: p.stat().st_mtime_ns for p in copied.path.glob("runs/*/result.json")}
    again = bakeoff.run({**config, "output": str(copied.path)}, display="none")
    assert {p: p.stat().st_mtime_ns for p in copied.path.glob("runs/*/result.json")} == times
    assert again.document == results.document


def test_a_folder_of_something_else_is_left_alone(shared, tmp_path):
    config, results = shared
    with pytest.raises(SetupError, match="holds another bakeoff, 'shared'"):
        bakeoff.run(config, {"name": "other"}, display="none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(SetupError, match="holds other files"):
        bakeoff.run({**config, "output": str(tmp_path / "other")}, display="none")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["notes.txt"]
    with pytest.raises(SetupError, match="not a bakeoff's folder"):
        bakeoff.load_results(tmp_path)


@pytest.mark.parametrize("plan", ['{"format_version": "1.2", "name": "shared"}', "[1]", '{"model": "x", "data": 1}'])
def test_another_programs_plan_makes_no_folder_a_bakeoffs(tiny_config, tmp_path, plan):
    import yaml

    words = tiny_config | {"output": "."}
    (tmp_path / "plan.json").write_text(plan)
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(SetupError, match="holds other files"):
        bakeoff.run({**words, "output": str(tmp_path)}, display="none")
    with pytest.raises(SetupError, match="not a bakeoff's folder"):
        bakeoff.load_results(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**words, "output": str(tmp_path / "there")}))
    assert api.read_config(tmp_path / "config.yaml", None).output == str(tmp_path / "there")
    (tmp_path / ".lock").touch()  # another program's, too
    if plan[0] == "{":
        with pytest.raises(SetupError, match="holds other files"):
            bakeoff.run({**words, "output": str(tmp_path)}, display="none")
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_a_folder_at_work_is_left_to_its_process(shared):
    from bakeoff.lock import locked

    config, results = shared
    with (
        locked(results.folder.lock_file),
        pytest.raises(SetupError, match=rf"is running here: process {os.getpid()} on "),
    ):
        bakeoff.run(config, display="none")


def test_a_users_own_config_is_never_replaced(tiny_config, tmp_path):
    import yaml

    folder = tmp_path / "mine"
    folder.mkdir()
    text = f"# my notes\n{yaml.safe_dump({**tiny_config, 'output': str(folder)})}"
    (folder / "config.yaml").write_text(text)
    with pytest.raises(SetupError, match="holds other files"):
        bakeoff.run(folder / "config.yaml", display="none")
    assert (folder / "config.yaml").read_text() == text
    with pytest.raises(SetupError, match="is a file"):
        bakeoff.run({**tiny_config, "output": str(folder / "config.yaml")}, display="none")


def test_what_a_bakeoff_left_before_it_had_a_plan_is_taken_over(tiny_config):
    from bakeoff.config import load_config
    from bakeoff.identity import check_free, discard

    folder, config = Folder(tiny_config["output"]), load_config(tiny_config)
    for file in (
        folder.config_file,
        folder.environment_file,
        folder.tokens_file("train"),
        folder.examples_file("test"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("other: config")
    with pytest.raises(SetupError, match="holds other files"):  # without a lock these may be anyone's
        check_free(folder, config)
    folder.lock_file.touch()
    check_free(folder, config)
    (folder.path / "data/mine.jsonl").touch()
    with pytest.raises(SetupError, match="holds other files"):
        check_free(folder, config)
    discard(folder)
    assert [p.name for p in folder.path.rglob("*") if p.is_file() and p != folder.lock_file] == ["mine.jsonl"]
    (folder.path / "data/mine.jsonl").unlink()
    discard(folder)
    assert not folder.path.exists()


def test_a_run_folders_own_config_goes_on_there(shared, copied, monkeypatch):
    config, results = shared
    monkeypatch.chdir(copied.path)
    assert bakeoff.run("config.yaml", display="none").document == results.document
    assert not Path("bakeoffs").exists()


def test_a_bakeoff_that_cannot_be_planned_leaves_nothing(tiny_config):
    with pytest.raises(bakeoff.BakeoffError, match="unknown method"):
        bakeoff.run({**tiny_config, "entries": ["no_such_method"]}, display="none")
    with pytest.raises(bakeoff.BakeoffError, match="no room for the document"):
        bakeoff.run(tiny_config, {"generation.max_new_tokens": 60}, display="none")
    assert not Path(tiny_config["output"]).exists()


def test_what_is_damaged_is_made_anew_or_named(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2, "learning_rate": 0.01}}
    tiny_config["baselines"] = ["base", "lead-1"]
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    first, folder = results.document, results.folder
    folder.results_file.write_text("{")
    assert bakeoff.load_results(folder.path).document == first
    lora = folder.run(first["entries"]["lora"]["runs"][0])
    lead = folder.run(first["baselines"]["lead-1"]["runs"][0])
    whole = lead.predictions_file.read_text()
    flipped = whole.replace('"f": 0.', '"f": 1.', 1)  # still JSON
    assert flipped != whole
    for damage in (whole[:-20], whole[:50] + "\n" + whole[51:], whole[: whole.index("\n") + 1], flipped):
        lead.predictions_file.write_text(damage)
        with pytest.raises(SetupError, match=r"predictions.jsonl:.*Try: bakeoff run again$") as caught:
            bakeoff.load_results(folder.path)
        assert "\n" not in str(caught.value)
    for file in lora.adapter.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(SetupError, match="safetensors: damaged or missing. Try: bakeoff run again"):
        results.entry("lora").load()
    again = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert lead.predictions_file.read_text() == whole
    assert again.entries["lora"]["metrics"] == first["entries"]["lora"]["metrics"]
    assert again.entry("lora").adapter == lora.adapter

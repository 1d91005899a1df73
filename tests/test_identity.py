"""What changes between two starts of a bakeoff: only what it touches is run again, and nothing is mixed in."""

import json
import os
import shutil

import pytest

import bakeoff
from bakeoff.errors import SetupError
from bakeoff.store import lock
from bakeoff.store.run_folder import Folder
from tests.conftest import make_rows, write_rows
from tests.test_trials import started


@pytest.fixture
def config(tiny_model, tmp_path):
    """A bakeoff of one entry, in this process."""
    sizes = {"train": 24, "validation": 4, "test": 6}
    return {
        "name": "tiny",
        "model": str(tiny_model),
        "data": {s: str(write_rows(tmp_path / f"{s}.jsonl", make_rows(n, 0))) for s, n in sizes.items()},
        "entries": {"lora": {"r": 2, "learning_rate": 0.01}},
        "baselines": ["base", "lead-1"],
        "tune": {"trials": 2},
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
        "output": str(tmp_path / "out"),
    }  # fmt: skip


def test_what_a_change_does_not_touch_is_kept_and_what_is_taken_back_is_there_again(config, monkeypatch, capsys):
    seen = started(monkeypatch)
    first = bakeoff.run(config, display="none")
    seen.clear()
    more = {**config, "entries": {**config["entries"], "top": {"method": "last_layers", "learning_rate": 0.01}}}
    wider = bakeoff.run(more, {"protocol.seeds": 2}, display="plain")
    assert [run[:2] for run in seen] == [("lora", "entry"), ("top", "entry"), ("top", "entry")]
    said = capsys.readouterr().err
    assert "changed since the last session: protocol.seeds, entries.top.method, " in said
    assert "are still used: 3\n" in said
    assert wider.entries["lora"].runs[0] == first.entries["lora"].runs[0]
    seen.clear()
    other = bakeoff.run(config, {"protocol.epochs": 2}, display="plain")
    assert "are still used: 0; that are no longer used: 6 (they stay on disk" in capsys.readouterr().err
    assert [run[0] for run in seen] == ["base", "lead-1", "lora"]
    assert list(other.entries) == ["lora"]
    assert other.entries["lora"].steps == 2 * first.entries["lora"].steps
    seen.clear()
    again = bakeoff.run(config, display="none")
    assert seen == []
    assert again.document.row() | {"records": 0} == first.document.row() | {"records": 0}


def test_changed_data_base_and_settings_are_noticed_and_named(config, tiny_model, tmp_path, monkeypatch, capsys):
    first = bakeoff.run(config, display="none")
    file = tmp_path / "train.jsonl"
    content = file.read_text()
    file.write_text("".join(content.splitlines(keepends=True)[1:]))
    second = bakeoff.run(config, display="plain")
    assert "changed since the last session: the data" in capsys.readouterr().err
    assert not set(first.entries["lora"].runs) & set(second.entries["lora"].runs)
    assert len(Folder(config["output"]).examples_file("train").read_text().splitlines()) == 23
    file.write_text(content)
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    words = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(words | {"layer_norm_epsilon": 1e-4}))
    bakeoff.run({**config, "model": str(base)}, display="plain")
    assert "changed since the last session: the data, the base, model" in capsys.readouterr().err
    monkeypatch.setattr("bakeoff.driver.plan.__version__", "99")
    bakeoff.run({**config, "model": str(base)}, display="plain")
    assert "changed since the last session: bakeoff's version" in capsys.readouterr().err


def test_other_groups_and_ids_change_the_verdict_and_repeat_no_run(config, tmp_path, monkeypatch):
    file = tmp_path / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write_rows(
        file, [{**row, "author": f"a{i % 2}", "thread": f"t{i % 3}", "key": f"k{i}"} for i, row in enumerate(rows)]
    )
    for split in ("train", "validation"):
        other = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        write_rows(tmp_path / f"{split}.jsonl", [{**row, "author": "a", "thread": "t", "key": "k"} for row in other])
    seen = started(monkeypatch)
    first = bakeoff.run(config, display="none")
    assert (first.document.verdict.documents, len(seen)) == (6, 3)
    for changes, documents in (({"group": "author"}, 2), ({"group": "thread"}, 3), ({"id": "key"}, 6)):
        again = bakeoff.run({**config, "data": config["data"] | changes}, display="none")
        assert again.document.verdict.documents == documents
        assert len(seen) == 3
    assert json.loads(again.folder.examples_file("test").read_text().splitlines()[1])["id"] == "k1"
    assert [row["id"] for row in again.entry("lora").predictions()] == [f"k{i}" for i in range(6)]


def test_an_extension_of_another_search_is_not_this_ones(config):
    """A trial past the edge stands in no plan; those of other settings in the same folder must not be taken for it."""
    config["entries"] = {"lora": {"r": 2}}
    first = bakeoff.run(config, {"protocol.epochs": 2}, display="none")
    assert first.entries["lora"].tuning.extended
    second = bakeoff.run(config, display="none")
    assert {t.steps for t in second.entries["lora"].tuning.trials} <= {1, 2, 3}
    assert len(second.entries["lora"].tuning.trials) <= 3
    config["entries"] = {"lora": {"r": 2, "learning_rate": 0.01}}
    assert bakeoff.run(config, display="none").entries["lora"].tuning.trials == []


def test_another_machine_is_told_and_kept_in_the_record(config, capsys):
    first = bakeoff.run(config, display="none")
    file = first.folder.environment_file
    file.write_text(json.dumps(first.folder.environment() | {"torch": "1.0"}))
    again = bakeoff.run(config, display="plain")
    assert "the machine has changed: torch 1.0 -> " in capsys.readouterr().err
    assert again.document.environment["changes"].startswith("torch 1.0 -> ")
    assert again.entries["lora"].metrics == first.entries["lora"].metrics


def test_damaged_data_plan_and_config_are_made_again(config, monkeypatch):
    first = bakeoff.run(config, display="none")
    folder = first.folder
    files = [folder.tokens_file("train"), folder.examples_file("test"), folder.plan_file, folder.config_file]
    whole = [file.read_bytes() for file in files]
    for file, content in zip(files, whole, strict=True):
        file.write_bytes(content[: len(content) // 2])
    seen = started(monkeypatch)
    again = bakeoff.run(config, display="none")
    assert [file.read_bytes() for file in files] == whole
    assert seen == []
    assert again.document == first.document


def test_a_lock_names_its_owner_and_none_that_is_dead_holds_it(tmp_path, monkeypatch):
    file = tmp_path / ".lock"
    with lock.locked(file) as took_over:
        assert took_over is None
        assert json.loads(file.read_text())["pid"] == os.getpid()
        with pytest.raises(SetupError, match=f"another bakeoff is running in this folder: process {os.getpid()} on "):
            lock.locked(file).__enter__()
    assert file.read_text() == ""
    file.write_text(json.dumps({"pid": 1, "host": lock.this_process()["host"], "since": "then"}))
    with lock.locked(file) as took_over:  # its kernel lock has gone with it
        assert took_over.startswith("resumes after process 1 on ")
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.05)
    file.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "then"}))
    with lock.locked(file) as took_over:
        assert "elsewhere" in took_over


def test_the_owner_on_another_machine_is_seen_at_work(tmp_path, monkeypatch):
    import threading

    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.02)
    file, ended = tmp_path / ".lock", threading.Event()
    file.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "then"}))
    thread = threading.Thread(target=lock.touch, args=(file, ended))
    thread.start()
    try:
        with pytest.raises(SetupError, match="process 1 on elsewhere, since then"):
            lock.locked(file).__enter__()
    finally:
        ended.set()
        thread.join()

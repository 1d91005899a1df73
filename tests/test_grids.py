"""What the cells of a grid share, that it changes nothing that they leave, and what a grid is told before it trains."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import bakeoff
from bakeoff import grids, running
from bakeoff.compute.model.loading import load_tokenizer
from bakeoff.config.grid import in_run_order, load_grid
from bakeoff.config.loading import load_config
from bakeoff.data import prepared, shared
from bakeoff.data.shared import SharedData
from bakeoff.driver.executor import LocalExecutor, Slot
from bakeoff.driver.plan import make_plan
from bakeoff.errors import DataError
from bakeoff.store.grid_folder import GridFolder
from bakeoff.store.lock import locked
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline, inline, make_rows, write_rows
from tests.test_kill_history import records
from tests.test_spare import noting_loads
from tests.test_tasks import told

SIZES = {"train": 8, "validation": 4, "test": 6}


def other_weights(model, folder):
    """Return a copy of a base with other weights."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({n: w * torch.tensor(1.1) for n, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def config(tmp_path, tiny_model):
    """The config of a grid of two tasks on two bases with one tokenizer."""
    tasks = {
        task: {"data": {
            split: str(write_rows(tmp_path / f"{task}-{split}.jsonl", make_rows(count, 10 * number + i)))
            for i, (split, count) in enumerate(SIZES.items())
        }}
        for number, task in enumerate(("first", "second"))
    }  # fmt: skip
    return {
        "models": {"tiny": str(tiny_model), "other": str(other_weights(tiny_model, tmp_path / "other"))},
        "tasks": tasks,
        "entries": {"lora": {"r": 4, "learning_rate": 0.01}},
        "tune": False,
        "baselines": ["base"],
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
        "output": str(tmp_path / "out"),
    }


def written(tmp_path, config):
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


@contextmanager
def counted(monkeypatch):
    """Count what is read and tokenized."""
    done = []
    with monkeypatch.context() as patch:
        read, encode = shared.load_or_count, prepared.encode
        patch.setattr(shared, "load_or_count", lambda *given: done.append("read") or read(*given))
        patch.setattr(prepared, "encode", lambda *given: done.append("encode") or encode(*given))
        yield done


def same_as_alone(cell, tmp_path):
    """Compare what a cell of a grid has left with what the same config leaves in another folder, without a grid."""
    alone = bakeoff.run(cell.config.model_dump(mode="json") | {"output": str(tmp_path / "alone")}, display="none")
    folder = Folder(cell.config.folder)
    found, expected = records(folder), records(alone.folder)
    for of in (found, expected):  # a run that has no process of its own has no log
        of["files"] = [name for name in of["files"] if not name.endswith("log.txt")]
    assert found == expected
    assert folder.made() == alone.folder.made()  # with the hashes of examples and ids
    plan, other = (place.plan().row() for place in (folder, alone.folder))
    assert {**plan, "config": None, "basis": None} == {**other, "config": None, "basis": None}
    shutil.rmtree(alone.folder.path)


def test_a_task_is_read_once_and_tokenized_once_for_bases_with_one_tokenizer(config, tmp_path, monkeypatch):
    file = written(tmp_path, config)
    with counted(monkeypatch) as done:
        assert told("run", file, "--display", "none")[0] == 0
    assert (done.count("read"), done.count("encode")) == (2, 2 * 3)
    for cell in load_grid(file).cells:
        same_as_alone(cell, tmp_path)
    with counted(monkeypatch) as done:  # nothing is left to do
        assert told("run", file, "--display", "none")[0] == 0
        assert told("plan", file)[0] == 0
    assert (done.count("read"), done.count("encode")) == (4, 2 * 3)


def test_ids_are_shared_only_where_all_that_makes_them_is_the_same(config, tmp_path, tiny_model, monkeypatch):
    renamed = shutil.copytree(tiny_model, tmp_path / "renamed")
    text = json.loads((renamed / "tokenizer.json").read_text())
    words = text["model"]["vocab"]
    words["ba"], words["be"] = words["be"], words["ba"]
    (renamed / "tokenizer.json").write_text(json.dumps(text))
    settings = json.loads((tiny_model / "tokenizer_config.json").read_text())
    configured = shutil.copytree(tiny_model, tmp_path / "configured")
    (configured / "tokenizer_config.json").write_text(json.dumps(settings | {"clean_up_tokenization_spaces": True}))
    common = {"data": config["tasks"]["first"]["data"], "entries": config["entries"], "tune": False}
    changes = [
        ({}, True), ({"model": str(tmp_path / "other")}, False), ({"protocol": {"epochs": 2, "max_tokens": 48}}, False),
        ({"model": str(renamed)}, True), ({"model": str(configured)}, True),
        ({"template": "{{ document }} ;"}, True), ({"protocol": {"max_tokens": 32}}, True),
        ({"generation": {"max_new_tokens": 3}}, True), ({"data": common["data"] | {"train_limit": 4}}, True),
    ]  # fmt: skip
    with SharedData() as together:
        for change, anew in changes:
            given = load_config({"model": str(tiny_model), "protocol": {"max_tokens": 48}, **common, **change})
            tokenizer = load_tokenizer(given.model, given.pin)
            expected = make_plan(given, tokenizer)
            with counted(monkeypatch) as done:
                folder = Folder(tmp_path / "plan")
                found = make_plan(given, tokenizer, shared=together)
                assert ("encode" in done) == anew, change
                make_plan(given, tokenizer, folder, together).data.complete()
            assert found.document == expected.document
            assert make_plan(given, tokenizer, folder).data.is_current()
            shutil.rmtree(folder.path)


def test_data_that_change_after_a_grid_was_planned_stop_it_or_are_those_that_were_planned(
    config, tmp_path, monkeypatch
):
    table = tmp_path / "train.csv"
    rows = make_rows(8, 5)
    table.write_text("document,summary\n" + "".join(f"{r['document']},{r['summary']}\n" for r in rows))
    config["tasks"]["first"]["data"]["train"] = str(table)
    lines = tmp_path / "second-train.jsonl"

    def editing(path, tasks, _=None):
        table.write_text("document,summary\nother words,other\n")
        yield from inline(path, tasks)
        if path.name == "second-on-tiny":
            lines.write_text(lines.read_text().replace('"document": "', '"document": "ba ', 1))

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(editing))
    with pytest.raises(DataError, match=r"\(second on other\): .*second-train.jsonl:1: changed while it was in use"):
        bakeoff.run_grid(written(tmp_path, config), display="none")
    first = [Folder(tmp_path / f"out/first-on-{base}") for base in ("tiny", "other")]
    assert [[row.document for row in folder.examples("train")] for folder in first] == [
        [r["document"] for r in rows]
    ] * 2


@pytest.mark.parametrize("stopped", [False, True])
def test_a_base_that_changes_after_a_grid_was_planned_stops_it(config, tmp_path, monkeypatch, stopped):
    def editing(path, tasks, _=None):
        yield from inline(path, tasks)
        if path.name == "first-on-other":
            shutil.rmtree(tmp_path / "other")
            other_weights(other_weights(config["models"]["tiny"], tmp_path / "between"), tmp_path / "other")
            if stopped:
                raise KeyboardInterrupt

    file, out = written(tmp_path, config), tmp_path / "out"
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(editing))
    code, output = told("run", file, "--display", "none")
    said = "interrupted" if stopped else f"(second on other): {tmp_path}/other: changed while the grid was running"
    assert (code, said in output) == (130 if stopped else 2, True), output
    if stopped:  # and another bakeoff was run of the new weights meanwhile
        monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
        bakeoff.run(load_grid(file).cells[3].config.model_dump(mode="json"), display="none")
        code, output = told("report", out)
        assert (code, "second-on-other: was run with another version of other's base than" in output) == (2, True)
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    assert told("run", file, "--display", "none")[0] == 0


def test_an_interrupted_grid_resumes_and_comes_to_the_same_records(config, tmp_path, monkeypatch):
    def interrupted(path, tasks, _=None):
        if path.name == "second-on-tiny":
            raise KeyboardInterrupt
        yield from inline(path, tasks)

    file = written(tmp_path, config)
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(interrupted))
    assert told("run", file, "--display", "none")[0] == 130
    assert not (tmp_path / "out/first-on-other").exists()
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    assert told("run", file, "--display", "none")[0] == 0
    for cell in load_grid(file).cells[1:3]:
        same_as_alone(cell, tmp_path)


@pytest.mark.parametrize("alone", [False, True])
def test_tasks_of_one_base_have_it_from_one_process_and_leave_what_they_leave_alone(
    config, tmp_path, monkeypatch, alone
):
    servers, note = [], tmp_path / "loads"

    config["models"].pop("other")
    file = written(tmp_path, config)
    with monkeypatch.context() as patch:
        patch.setattr(Slot, "start", noting_loads(servers, note))
        patch.setattr(running, "LocalExecutor", lambda given: LocalExecutor(given, alone=alone))
        assert told("run", file, "--display", "none")[0] == 0
    assert len(note.read_text().split()) == 1
    assert [server.process.returncode for server in servers] == [-9] * (2 if alone else 1)  # alone: a spare one too
    for cell in load_grid(file).cells:
        same_as_alone(cell, tmp_path)


class Standing:
    """An executor that only notes when it was made and ended."""

    def __init__(self, config, notes):
        self.notes, self.name, self.lasting = notes, config.name, False
        notes.append(f"made {self.name}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.notes.append(f"ended {self.name}")


def test_an_executor_stays_for_bakeoffs_that_its_processes_serve_alike(monkeypatch):
    notes, common = [], {"data": "docstrings", "entries": ["lora"]}
    monkeypatch.setattr(grids, "executor_of", lambda config: Standing(config, notes))

    def used(*changes, does=None):
        notes.clear()
        with grids.Executors() as executors:
            for number, change in enumerate(changes):
                with executors.of(load_config({"name": f"b{number}", **common, **change})) as executor:
                    notes.append(executor.name)
                    if does:
                        does(executor)
        return " ".join(notes).replace("made b", "+").replace("ended b", "-").replace("b", "")

    assert used({}, {}, {"protocol": {"precision": "fp32"}}) == "+0 0 0 0 -0"
    other = [{"model": "gpt2"}, {"machine": {"workers": 2}}, {"safety": {"memory_limit": "4GB"}},
             {"protocol": {"deterministic": True}}]  # fmt: skip
    for change in other:
        assert used({}, change, change, {}) == "+0 0 -0 +1 1 1 -1 +3 3 -3"
    for own in ({"machine": {"executor": "ray"}}, {"machine": {"executor": "slurm"}},
                {"protocol": {"compile_blocks": True}}):  # fmt: skip
        assert used(own, own) == "+0 0 -0 +1 1 -1"

    def lost(executor):  # as one does that has left a device
        executor.lasting = False

    assert used({}, {}, does=lost) == "+0 0 -0 +1 1 -1"
    with pytest.raises(KeyboardInterrupt):
        used({}, {}, does=lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert notes == ["made b0", "b0", "ended b0"]


def test_cells_that_want_one_base_follow_each_other_and_results_keep_their_order(config, tmp_path):
    config["tasks"]["third"] = config["tasks"]["first"] | {"data": {"source": "docstrings"}}
    config["tasks"]["second"]["protocol"] = {"precision": "bf16"}
    cells = load_grid(written(tmp_path, config)).cells
    assert [cell.config.name for cell in in_run_order(cells)] == [
        f"{task}-on-{base}" for base in ("tiny", "other") for task in ("first", "third", "second")
    ]


@pytest.mark.parametrize(
    ("task", "model", "said"),
    [
        ({"data": {"test": "first-test.jsonl"}}, {}, "shares test documents with"),
        ({"data": {"test_limit": 1}}, {}, "one test document tells nothing over tasks"),
        ({"entries": {"lora": {"method": "ia3"}}}, {}, "entry 'lora' is ia3 in one bakeoff and lora in another"),
        ({"entries": {"other": {"method": "lora", "r": 2}}}, {}, "no entry is in all bakeoffs of the grid"),
        ({}, {"twin": {"model": "copy"}}, "models.tiny and models.twin are the same base"),
        (
            {"data": {"long_targets": "drop"}}, {"short": {"model": "other", "protocol": {"max_tokens": 16}}},
            "has other examples than",
        ),
        (
            {"data": {"long_targets": "drop", "train": "second-test.jsonl", "test": "second-validation.jsonl"}},
            {"short": {"model": "other", "protocol": {"max_tokens": 16}}}, "has other examples than",
        ),
    ],
)  # fmt: skip
def test_what_the_joint_report_would_refuse_is_refused_before_anything_trains(
    config, tmp_path, tiny_model, task, model, said
):
    shutil.copytree(tiny_model, tmp_path / "copy")
    rows = make_rows(6, 77)
    rows[2]["summary"] = " ".join(rows[2]["document"].split()[:3] * 4)  # no room for a document in 16 tokens
    write_rows(tmp_path / "second-test.jsonl", rows)
    changed = {
        key: str(tmp_path / value) if key in ("train", "test") else value for key, value in task.get("data", {}).items()
    }
    config["tasks"]["second"] = task | {"data": config["tasks"]["second"]["data"] | changed}
    bases = {name: keys | {"model": str(tmp_path / keys["model"])} for name, keys in model.items()}
    config["models"] = {"tiny": str(tiny_model), **bases}
    file = written(tmp_path, config)
    for command in (["run", file, "--display", "none"], ["plan", file]):
        code, output = told(*command)
        assert (code, said in output, "grid.yaml" in output) == (2, True, True), output
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_run_one_grid(config, tmp_path, monkeypatch):
    config["models"].pop("other")
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    file, out = written(tmp_path, config), tmp_path / "out"
    with locked(GridFolder(out).lock_file):  # a process that has just begun, and may have other cells
        code, output = told("run", file, "--display", "none")
        assert (code, "out: another bakeoff is running in this folder: process" in output) == (2, True)
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert told("run", file, "--display", "none")[0] == 0


def test_bakeoffs_of_a_grid_are_announced_and_no_earlier_use_of_their_test_splits(config, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config["tasks"].pop("second")
    output = told("run", written(tmp_path, config), "--display", "plain")[1]
    lines = [output.index(f"bakeoff {number} of 2: first on {base}") for number, base in ((1, "tiny"), (2, "other"))]
    assert lines[0] < output.index("report: ") < lines[1]
    reused = "final runs of other bakeoffs or settings were scored on this test split before"
    assert reused not in output
    config["entries"]["lora"]["learning_rate"] = 0.02
    output = told("run", written(tmp_path, config | {"output": str(tmp_path / "later")}), "--display", "plain")[1]
    assert output.count(f"2 {reused}") == 2


def test_tasks_that_share_some_test_documents_are_named_and_trained(config, tmp_path):
    rows = make_rows(6, 3)
    for task, own in (("first", rows), ("second", [*make_rows(4, 88), *rows[:2]])):
        write_rows(tmp_path / f"{task}-test.jsonl", own)
    config["models"].pop("other")
    file, line = written(tmp_path, config), "first and second share 2 of 6 test documents"
    assert line in told("plan", file)[1]
    assert told("run", file, "--display", "plain")[1].count(line) == 2  # planned, and in the joint report

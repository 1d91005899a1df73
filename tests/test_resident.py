"""On a CPU a base is loaded once for many runs, whose processes share it: who holds it, what they see and cost."""

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bakeoff
from bakeoff import running
from bakeoff.compute.run import holder, resident
from bakeoff.compute.run.execution import execute
from bakeoff.compute.run.handover import Given
from bakeoff.compute.run.request import forked
from bakeoff.compute.run.resident import Resident, Wanted, load
from bakeoff.config.sections import LATEST
from bakeoff.driver.executor import LocalExecutor
from bakeoff.store.files import append_jsonl, json_object, read_jsonl
from tests.conftest import Inline, inline

# The server of runs, which notes where a base is loaded, and of which each run loads its own if it shall hold none.
NOTING = """
import os, sys
from bakeoff.compute.run import context, holder, process, resident
note, holds = sys.argv[1:3]
sys.argv[1:3] = []
def noting(load):
    def loaded(*arguments):
        with open(note, "a") as file:
            print(os.getpid(), file=file)
        return load(*arguments)
    return loaded
context.load_base, resident.load_base = noting(context.load_base), noting(resident.load_base)
if holds == "False":
    holder.load = lambda wanted: 1 / 0
process.main()
"""


def wanted(name, **others):
    return Wanted(**{"name": name, "pin": LATEST, "files": (), "precision": "fp32", "quantize": "none",
                     "memory_limit": None, **others})  # fmt: skip


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Serve requests, each {"run", "wants", "does"}, from bases that are only names; return what was noted and said."""
    notes = tmp_path / "notes"
    monkeypatch.setattr(holder, "log_to", lambda *_: None)

    def asked_for(line):
        name = json.loads(line)["wants"]
        return name and wanted(name)

    def load(base):
        append_jsonl(notes, {"loads": base.name, "process": os.getpid()})
        if base.name == "damaged":
            raise OSError
        return Resident(base, base.name, None, 1.0, None)

    def carry_out(line, events, given):
        request = json.loads(line)
        has = given.resident and given.resident.base
        known = given.resident and given.resident.base_losses.get(request["folder"])
        noted = {"has": has, "left": given.handover.left(), "from": os.getppid(), "known": known}
        append_jsonl(notes, {"run": request["run"], **noted})
        if "kills" in request:
            os.kill({"itself": os.getpid(), "holder": os.getppid()}[request["kills"]], signal.SIGKILL)
            time.sleep(60)
        if "tells" in request and not given.handover.left():
            given.handover.tell(request["tells"])
        if "leaves" in request and not given.handover.left():
            given.handover.leave(request["leaves"])
        return request.get("status", 0)

    for name, function in (("asked_for", asked_for), ("load", load), ("carry_out", carry_out)):
        monkeypatch.setattr(holder, name, function)

    def serve(*requests):
        lines = [json.dumps({"folder": str(tmp_path), "run": f"a-{i}", **r}) + "\n" for i, r in enumerate(requests)]
        with (tmp_path / "events").open("w") as events:
            holder.serve_from_base(lines, events)
        said = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines() if line]
        return list(read_jsonl(notes, json_object)), [message["exit"] for message in said if "exit" in message]

    return serve


def test_a_base_is_loaded_for_all_runs_in_a_row_that_want_it(serve):
    noted, statuses = serve(*({"wants": name} for name in ("a", "a", None, "b", "a")))
    assert [row["loads"] for row in noted if "loads" in row] == ["a", "b", "a"]
    assert [row["has"] for row in noted if "run" in row] == ["a", "a", "a", "b", "a"]
    first, *rest = [row["process"] for row in noted if "loads" in row]
    assert [row["from"] for row in noted if "run" in row] == [first] * 3 + rest
    assert len({first, *rest, os.getpid()}) == 4
    assert statuses == [0] * 5


def test_a_base_that_cannot_be_held_is_tried_once_and_its_runs_have_none(serve):
    noted, statuses = serve({"wants": "damaged"}, {"wants": "damaged", "status": 1}, {"wants": "a"})
    assert [row["loads"] for row in noted if "loads" in row] == ["damaged", "a"]
    assert [row["has"] for row in noted if "run" in row] == [None, None, "a"]
    assert statuses == [0, 1, 0]


def test_what_a_training_leaves_is_evaluated_by_another_process_and_ends_once(serve):
    noted, statuses = serve(
        {"wants": "a", "leaves": {"loss": 0.1}}, {"wants": "a"}, {"wants": "a", "leaves": {"loss": 1}, "status": 1}
    )
    assert [row["left"] for row in noted if "run" in row] == [None, {"loss": 0.1}, None, None]
    assert statuses == [0, 0, 1]


def test_the_loss_of_a_base_is_known_to_the_runs_after_the_one_that_computed_it(serve):
    noted, _ = serve(
        {"wants": "a"}, {"wants": "a", "tells": 2.5, "leaves": {"loss": 0.1}}, {"wants": "a", "folder": "another"},
        {"wants": "a"}, {"wants": "b"},
    )  # fmt: skip
    assert [(row["known"], row["left"]) for row in noted if "run" in row] == [
        (None, None), (None, None), (None, {"loss": 0.1}), (None, None), (2.5, None), (None, None),
    ]  # fmt: skip


def test_a_killed_run_or_holder_is_a_status_and_the_next_run_has_its_base(serve):
    noted, statuses = serve({"wants": "a", "kills": "itself"}, {"wants": "a", "kills": "holder"}, {"wants": "a"})
    assert [row["loads"] for row in noted if "loads" in row] == ["a", "a"]
    assert [row["has"] for row in noted if "run" in row] == ["a", "a", "a"]
    assert statuses == [-signal.SIGKILL, -signal.SIGKILL, 0]


def test_a_base_is_loaded_under_the_limit_of_memory_by_one_thread_alone(monkeypatch, base):
    limit = 64 * 2**30
    monkeypatch.setattr(resident, "conforming", lambda loaded: (loaded, "slow"))

    def load_base(*arguments):
        assert torch.get_num_threads() == 1
        assert resource.getrlimit(resource.RLIMIT_DATA) == (limit, limit)
        if arguments[0] == "starts":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return base

    monkeypatch.setattr(resident, "load_base", load_base)

    def tries(name):
        try:
            found = load(wanted(name, memory_limit=limit))
        except RuntimeError as error:
            return {"loading has started threads": 2}.get(str(error), 3)
        return 0 if (found.base, found.note) == (base, "slow") else 4

    alone = len(list(Path("/proc/self/task").iterdir())) == 1
    assert forked(lambda: tries("starts")) == 2
    if alone:
        assert forked(lambda: tries("plain")) == 0


def noting(config, note, holds=True):
    """Return an executor whose server notes where a base is loaded."""
    made = LocalExecutor(config)
    words = made.slots[0].words
    words["model"] = [
        sys.executable,
        "-P",
        "-c",
        NOTING,
        str(note),
        str(holds),
        *words["model"][words["model"].index("-m") + 4 :],
    ]
    return made


@pytest.fixture
def large(tiny_config, tiny_model, tmp_path):
    """The tiny config over a base of 85 MB."""
    from transformers import AutoConfig, AutoTokenizer, GPT2LMHeadModel

    shape = AutoConfig.from_pretrained(tiny_model)
    shape.n_embd, shape.n_layer, shape.n_head = 768, 3, 2
    torch.manual_seed(0)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "large")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "large")
    tiny_config["entries"] = {
        "full": {"method": "full", "learning_rate": 1e-3}, "lora": {"r": 2, "learning_rate": 0.01},
    }  # fmt: skip
    tiny_config["protocol"] |= {"epochs": 1, "precision": "fp32"}
    return {**tiny_config, "model": str(tmp_path / "large"), "baselines": ["base"]}


def test_runs_that_share_a_base_are_as_those_that_load_it_and_cost_as_much_memory(large, tmp_path, monkeypatch):
    def ran(name, make, entries):
        with monkeypatch.context() as patch:
            patch.setattr(running, "LocalExecutor", make)
            return bakeoff.run({**large, "entries": entries, "output": str(tmp_path / name)}, display="none")

    entries, note = large["entries"], tmp_path / "loads"
    shared = ran("shared", lambda config: noting(config, note), entries)
    assert len(note.read_text().split()) == 1
    expected = ran("expected", lambda _: Inline(), entries)
    for ours, other in zip(shared.entries.values(), expected.entries.values(), strict=True):
        assert (ours.metrics, ours.checks) == (other.metrics, other.checks)
        one, two = (r.folder.run(row.runs[0]) for r, row in ((shared, ours), (expected, other)))
        assert one.predictions_file.read_bytes() == two.predictions_file.read_bytes()
        assert one.result().costs.keys() == two.result().costs.keys()
    alone = ran("alone", lambda config: noting(config, note, holds=False), {"lora": entries["lora"]})
    assert len(note.read_text().split()) == 1 + 3  # for the base's own scores, to train, and to evaluate
    peaks = [r.folder.run(r.entries["lora"].runs[0]).result().costs["peak_bytes"] for r in (shared, alone)]
    # A process that loads maps 8 MB more of libraries' files, and the allocator's leftovers vary by 10 MB.
    assert peaks[0] == pytest.approx(peaks[1], abs=0.5 * (tmp_path / "large/model.safetensors").stat().st_size)


def test_a_base_of_another_precision_is_not_taken(shared, copied):
    run = shared[1].entry("lora").best_run()
    copied.run(run.id).result_file.unlink()
    other = Resident(wanted(shared[0]["model"], precision="bf16"), None, None, 1.0, None)
    assert execute(copied.path, run.id, "train", lambda _: None, given=Given(other)).status == "done"


def test_a_base_that_changes_under_a_bakeoff_is_one_line(tiny_config, tiny_model, tmp_path, monkeypatch):
    import shutil

    base = shutil.copytree(tiny_model, tmp_path / "base")

    def changed(path, tasks, stop):
        tensors = load_file(base / "model.safetensors")
        save_file({name: 2 * tensor for name, tensor in tensors.items()}, base / "model.safetensors", {"format": "pt"})
        yield from inline(path, tasks)

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(changed))
    results = bakeoff.run({**tiny_config, "model": str(base), "entries": {"lora": {"r": 2}}}, display="none")
    assert results.entries["lora"].error == (
        f"model: {base}: not the base that this bakeoff was planned with (model.safetensors has changed, by its "
        "SHA-256). Try: restore its files, or bakeoff run again"
    )

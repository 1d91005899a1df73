"""Several runs at a time: the same records as one after the other, and what happens to a device at fault."""

import itertools
import json
import signal
import subprocess

import pytest

import bakeoff
from bakeoff import running
from bakeoff.analysis.alone import costs_alone, pace_alone
from bakeoff.compute.model.device import Facts
from bakeoff.compute.run.request import STOPPED
from bakeoff.config.loading import load_config
from bakeoff.config.machine import MachineConfig
from bakeoff.driver import device, executor
from bakeoff.driver.environment import usable_cores
from bakeoff.driver.executor import LocalExecutor, hiding_others
from bakeoff.driver.ready import ReadySet
from bakeoff.errors import ConfigError
from bakeoff.store.event_log import Reader
from bakeoff.store.events import State
from bakeoff.store.records import ALONE, Run, RunResult, Task
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline
from tests.test_kill_history import records

GPU = Facts("cuda:2", "A GPU", 10**11, 10**11, "bf16", False)


def without_neighbours(folder):
    """Return a folder's records without logs, and without what says that there were others beside."""
    found = records(folder)
    found["files"] = [file for file in found["files"] if not file.endswith("log.txt")]
    for record, _ in (value for name, value in found.items() if name != "files"):
        record.pop("beside")
        record["costs"] = [name for name in record["costs"] if name != ALONE]
    return found


def test_seconds_beside_others_become_those_that_the_tokens_take_alone():
    run = Run("lora-1", "lora", "entry", "lora", {}, 0)
    beside = RunResult(run, "done", beside=1, costs={"train_seconds": 10.0, "tokens_per_second": 300.0, ALONE: 600.0})
    other = RunResult(run, "done", beside=1, costs={"train_seconds": 30.0, "tokens_per_second": 200.0})
    own = RunResult(run, "done", costs={"train_seconds": 7.0, "tokens_per_second": 500.0})
    pace = pace_alone([own, beside, other])
    paced = [costs_alone(record, pace) for record in (beside, other, own)]
    assert [costs["train_seconds"] for costs in paced] == [5.0, 10.0, 7.0]
    assert [costs["tokens_per_second"] for costs in paced] == [600.0, 600.0, 500.0]
    assert pace_alone([own, other]) is None
    assert costs_alone(other, None) == other.costs


def test_two_workers_leave_the_records_of_one(tiny_config, tmp_path, processes, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_config["entries"] = {"lora": {"r": 2}}
    tiny_config.pop("tune")
    config = {**tiny_config, "baselines": ["base", "lead-1"]}
    two = {**config, "output": str(tmp_path / "two"), "machine": {"workers": 2}}
    start, started = executor.Slot.start, []
    monkeypatch.setattr(executor.Slot, "start", lambda slot, kind: started.append(kind) or start(slot, kind))
    results = bakeoff.run(two, display="none")
    folder = results.folder
    events = list(Reader(folder.events_file).new_events())
    assert [event.workers for event in events if event.kind == "start"] == [2]
    assert started.count("model") == 2
    found = [folder.run(run.id).result() for run in folder.runs() if run.entry == "lora"]
    assert {record.beside for record in found} == {1}
    timed = [record.costs[ALONE] for record in found if ALONE in record.costs]
    row = results.document.entries["lora"]
    assert row.timed_alone
    assert [row.costs["tokens_per_second"]] == timed
    assert "other runs had the same device at the same time as those of lora" in folder.markdown_file.read_text()
    assert bakeoff.run(two, display="none").document.entries["lora"].costs == row.costs  # nothing is timed again
    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline())
    one = bakeoff.run({**config, "output": str(tmp_path / "one")}, display="none")
    assert without_neighbours(folder) == without_neighbours(one.folder)
    assert results.verdict == one.verdict


@pytest.mark.parametrize(
    ("machine", "there", "expected"),
    [
        ({}, [], ["cpu"]),
        ({}, ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]),
        ({"device": "cuda:1"}, ["cuda:0", "cuda:1"], ["cuda:1"]),
        ({"devices": [2, 0]}, ["cuda:0", "cuda:1", "cuda:2"], ["cuda:2", "cuda:0"]),
        ({"device": "xpu"}, ["xpu:0", "xpu:1"], ["xpu:0", "xpu:1"]),
        ({"device": "cpu"}, ["cuda:0"], ["cpu"]),
        ({"devices": [1]}, ["xpu:0", "xpu:1"], ["xpu:1"]),
        ({"devices": [3]}, ["cuda:0"], r"machine\.devices: 3: torch finds no cuda:3\. Allowed here: 0\."),
        ({"devices": [0]}, [], r"machine\.devices: 0: torch finds no cuda:0\. Allowed here: none\."),
    ],
)
def test_runs_use_the_devices_that_are_named(monkeypatch, machine, there, expected):
    from bakeoff.compute.model import device as torch_device

    monkeypatch.setattr(torch_device, "visible", lambda: there)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            device.devices_of(MachineConfig(**machine))
    else:
        assert device.devices_of(MachineConfig(**machine)) == expected


def test_probes_use_the_first_device_that_is_named_and_see_no_other(tiny_config, monkeypatch):
    from bakeoff.compute.model import device as torch_device

    seen = []

    def probed(command, env, **options):
        seen.append((json.loads(options["input"])["device"], env["CUDA_VISIBLE_DEVICES"]))
        return subprocess.CompletedProcess(command, -signal.SIGKILL)

    monkeypatch.setattr(torch_device, "visible", lambda: ["cuda:0", "cuda:1", "cuda:2"])
    monkeypatch.setattr("bakeoff.driver.plan.survey", lambda asked: seen.append(asked) or GPU)
    monkeypatch.setattr("bakeoff.driver.probes.subprocess.run", probed)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    bakeoff.plan({**tiny_config, "entries": ["lora"]}, {"machine.devices": [2, 0]}, probe=True)
    assert seen == ["cuda:2", ("cuda", "2")]


@pytest.mark.parametrize(
    ("machine", "fault"),
    [
        ({"devices": []}, "devices: expected different indices"),
        ({"devices": [0, 0]}, "devices: expected different indices"),
        ({"devices": [-1]}, "devices: expected different indices"),
        ({"device": "cpu", "devices": [0]}, "devices: cpu is one device"),
        ({"workers": 0}, "workers"),
    ],
)
def test_what_cannot_be_is_one_line(machine, fault):
    with pytest.raises(ConfigError, match=fault) as error:
        load_config({"data": "docstrings", "entries": ["lora"], "machine": machine})
    assert "\n" not in str(error.value)


def test_slots_share_devices_evenly_and_each_sees_only_its_own(monkeypatch):
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    made = LocalExecutor(load_config({"data": "docstrings", "entries": ["lora"], "machine": {"workers": 3}}))
    made.spread(["cuda:0", "cuda:1"])
    assert [slot.beside for slot in made.slots] == [1, 0, 1]
    assert [slot.device for slot in made.slots] == ["auto", "cuda", "cuda"]
    assert [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in made.slots] == [None, "1", "0"]
    assert {slot.environment["OMP_NUM_THREADS"] for slot in made.slots} == {str(max(1, usable_cores() // 3))}
    assert hiding_others("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,7"})[1]["CUDA_VISIBLE_DEVICES"] == "7"
    assert hiding_others("cuda:1", {"ROCR_VISIBLE_DEVICES": "4,7"})[1]["HIP_VISIBLE_DEVICES"] == "1"
    assert hiding_others("xpu:1", {"ZE_AFFINITY_MASK": "2,3"})[1]["ZE_AFFINITY_MASK"] == "3"
    assert hiding_others("xpu:1", {})[1]["ZE_AFFINITY_MASK"] == "1"


class FakeServer:
    """Fails every run of a broken place with an error of its device; the others are done."""

    def __init__(self, slot, broken):
        self.slot, self.broken, self.runs = slot, broken, []

    def ask(self, path, task, *_):
        self.runs.append(task.run.id)
        files = Folder(path).run(task.run.id)
        files.path.mkdir(parents=True, exist_ok=True)
        record = RunResult(task.run, "done", metrics={"validation/loss": 1.0})
        if self.slot.place in self.broken:
            record = RunResult(task.run, "failed", error="CUDA error: the device is lost", cause="error")
        files.write_result(record)
        self.slot.inbox.put((self, {"exit": 0}))

    def ended(self):
        return None

    def kill(self, process, number):
        raise ProcessLookupError

    def close(self):
        pass


def carried_out(tmp_path, monkeypatch, broken, count=6):
    """Carry out some runs on three devices, some of which are broken; return records, and the slots that were left."""
    config = load_config({"data": "docstrings", "entries": ["lora"]})
    monkeypatch.setattr(Folder, "plan", lambda _: None)
    monkeypatch.setattr(executor, "planned_config", lambda *_: config)
    monkeypatch.setattr(executor.Slot, "start", lambda slot, _: FakeServer(slot, broken))
    made = LocalExecutor(config)
    made.spread(["cuda:0", "cuda:1", "cuda:2"])
    runs = [Run(f"lora-{i}", "lora", "entry", "lora", {}, i) for i in range(count)]
    ready = ReadySet(iter([[iter([Task(run, "train")]) for run in runs]]))
    events = list(made.run(tmp_path, ready))
    assert ready.take() is None
    return [Folder(tmp_path).run(run.id).result() for run in runs], [slot.place for slot in made.slots], events


def test_a_device_at_fault_is_left_and_its_runs_are_done_elsewhere(tmp_path, monkeypatch):
    results, places, events = carried_out(tmp_path, monkeypatch, {"cuda:1"})
    assert {result.status for result in results} == {"done"}
    assert places == ["cuda:0", "cuda:2"]
    assert [event.text for event in events] == ["cuda:1 is not used any more: 2 runs failed there"]


def test_where_every_device_is_at_fault_runs_fail_and_nothing_waits(tmp_path, monkeypatch):
    results, places, _ = carried_out(tmp_path, monkeypatch, {"cuda:0", "cuda:1", "cuda:2"})
    assert {result.status for result in results} == {"failed"}
    assert len(places) == 1


def test_every_run_is_asked_to_save_and_the_bakeoff_is_stopped_when_all_have(tmp_path, monkeypatch):
    class Saving(FakeServer):
        def ask(self, path, task, *_):
            asked.append(task.run.id)
            self.slot.inbox.put((self, {"started": 1}))
            self.slot.inbox.put((self, {"event": State(run=task.run.id, state="training").row()}))

        def kill(self, process, number):
            killed.append((process, number))
            for slot in made.slots[: len(killed)]:  # what it was asked for is done a little later
                slot.inbox.put((slot.attempt.server, {"exit": STOPPED}))

    asked, killed, calls = [], [], itertools.count()
    config = load_config({"data": "docstrings", "entries": ["lora"]})
    monkeypatch.setattr(Folder, "plan", lambda _: None)
    monkeypatch.setattr(executor, "planned_config", lambda *_: config)
    monkeypatch.setattr(executor.Slot, "start", lambda slot, _: Saving(slot, ()))
    made = LocalExecutor(config)
    made.spread(["cuda:0", "cuda:1"])
    ready = ReadySet(
        iter([[iter([Task(Run(f"lora-{i}", "lora", "entry", "lora", {}, i), "train")]) for i in range(5)]])
    )
    events = made.run(tmp_path, ready, lambda: next(calls) > 12)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(event for event in events)
    assert asked == ["lora-0", "lora-1"]
    assert killed == [(1, signal.SIGTERM)] * 2

"""Where nothing may be forked, each run has a process that was started, and had its libraries, before it was asked."""

import io
import json
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import bakeoff
from bakeoff import running
from bakeoff.compute.run import process
from bakeoff.config.loading import dump_config, load_config
from bakeoff.driver import executor
from bakeoff.driver.attempt import Attempt
from bakeoff.driver.executor import LocalExecutor, Slot
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.run_server import RunServer
from bakeoff.errors import SetupError
from bakeoff.store.files import write_json
from bakeoff.store.records import Run, Task
from bakeoff.store.run_folder import Folder
from tests.test_grace import Server, events_of

# Stands in for the process of a run, without its libraries. It notes that it lives, and waits until the next one does.
SPARE = """
import json, os, sys, time
from pathlib import Path
from bakeoff.store.records import RunResult
from bakeoff.store.run_folder import Folder
place, orphan = Path(sys.argv[1]), len(sys.argv) > 2
def note(file):
    with (place / file).open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    return len((place / file).read_text().split())
note("started")
line = sys.stdin.readline()
if line:
    number = note("ran")
    print(json.dumps({"alone": True}), flush=True)
    print(json.dumps({"started": os.getpid()}), flush=True)
    until = time.monotonic() + 60
    while len((place / "started").read_text().split()) <= number and time.monotonic() < until:
        time.sleep(0.01)
    if orphan and os.fork() == 0:
        note("orphans")
        time.sleep(600)
    files = Folder(json.loads(line)["folder"]).run(json.loads(line)["run"])
    if number != 2:  # the second one leaves no record
        files.write_result(RunResult(files.run(), "failed", error=f"process {number}"))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run folder of three runs that nothing was written of."""
    found = Folder(tmp_path / "out")
    found.path.mkdir()
    config = load_config({"data": "docstrings", "entries": ["lora"]})
    found.config_file.write_text(dump_config(config))
    monkeypatch.setattr(Folder, "plan", lambda _: None)
    monkeypatch.setattr(executor, "planned_config", lambda *_: config)
    return found


def spares(folder, *words):
    """Return an executor of such processes."""
    made = LocalExecutor(load_config(folder.config_file))
    script = [sys.executable, "-c", SPARE, *words]
    made.slots[0].start = lambda kind: RunServer(script, made.environment, made.inbox)
    return made


def ended(pid):
    """Return whether a process ends within seconds; one that nobody asks for how it ended has ended too."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def three_runs(folder, place, *options):
    """Carry out three runs by such processes; return what was said of them."""
    place.mkdir()
    runs = [Run(f"lora-{i}", "lora", "entry", "lora", {}, i) for i in range(3)]
    for run in runs:
        folder.run(run.id).path.mkdir(parents=True)
        write_json(folder.run(run.id).run_file, asdict(run))
    ready = ReadySet(iter([Task(run, "train") for run in runs]))
    return list(spares(folder, str(place), *options).run(folder.path, ready))


def pids(file):
    return [int(line) for line in file.read_text().split()]


def test_every_run_has_a_process_that_was_there_before(folder, tmp_path):
    events = three_runs(folder, tmp_path / "notes")
    started, ran = pids(tmp_path / "notes/started"), pids(tmp_path / "notes/ran")
    assert ran == started[:3]
    assert len(set(started)) == 4  # one is left in reserve
    silent = "its process ended with status 0"
    assert [folder.run(f"lora-{i}").result().error for i in range(3)] == ["process 1", silent, "process 3"]
    assert [(event.run, event.error) for event in events] == [("lora-1", silent)]
    assert all(map(ended, started))


def test_what_a_run_leaves_behind_keeps_nothing_waiting(folder, tmp_path):
    begun = time.monotonic()
    three_runs(folder, tmp_path / "notes", "orphan")
    assert time.monotonic() - begun < 60
    orphans = pids(tmp_path / "notes/orphans")
    assert len(orphans) == 3
    assert all(map(ended, orphans))


def test_nothing_is_forked_after_an_accelerator_was_touched(monkeypatch):
    events = io.StringIO()
    monkeypatch.setattr(process, "initialized", lambda: True)
    monkeypatch.setattr(process, "forks", lambda _: True)
    monkeypatch.setattr(process, "open_channel", lambda _: events)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    monkeypatch.setattr(sys, "argv", ["process", "cpu"])
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"folder": "x", "run": "a-1"}\n'))
    process.main()
    said = json.loads(events.getvalue())["refused"]
    assert re.search("a library has used the GPU.* Try: CUDA_VISIBLE_DEVICES=", said)


@pytest.mark.parametrize(
    ("device", "there", "forks"),
    [("cpu", [], True), ("cpu", ["xpu:0"], False), ("cuda:0", ["cuda:0"], False), ("mps", ["mps:0"], False)],
)
def test_a_server_forks_where_there_is_no_accelerator(monkeypatch, device, there, forks):
    monkeypatch.setattr(process, "choose", torch.device)
    monkeypatch.setattr(process, "visible", lambda: there)
    assert process.forks(device) is forks


def test_a_server_that_refuses_is_one_line(tmp_path):
    run = Run("lora-1", "lora", "entry", "lora", {}, 0)
    server = Server([(0, {"refused": "no GPU. Try: another"})])
    with pytest.raises(SetupError, match=r"^no GPU\. Try: another$"):
        list(events_of(Attempt(server, Folder(tmp_path), Task(run, "train"), 60.0), server))


# A server that notes where a base is loaded.
NOTING = """
import os, sys
from bakeoff.compute.run import process, resident
note = sys.argv.pop(1)
load = resident.load_base
def loaded(*arguments):
    with open(note, "a") as file:
        print(os.getpid(), file=file)
    return load(*arguments)
resident.load_base = loaded
process.main()
"""


def noting_loads(servers, note):
    """Return a start of a slot's servers, which are added to a list, and write a line into a file for each load."""

    def start(slot, kind):
        words = slot.words[kind]
        noting = [sys.executable, "-P", "-c", NOTING, str(note), *words[words.index("-m") + 4 :]]
        servers.append(RunServer(noting, slot.environment, slot.inbox))
        return servers[-1]

    return start


def test_a_bakeoff_without_forks_gives_what_others_give_and_loads_its_base_once(shared, tmp_path, monkeypatch):
    servers, note = [], tmp_path / "loads"

    monkeypatch.setattr(Slot, "start", noting_loads(servers, note))
    monkeypatch.setattr(running, "LocalExecutor", lambda config: LocalExecutor(config, alone=True))
    config, expected = shared
    results = bakeoff.run(
        config | {"entries": {"a": {"method": "last_layers", "learning_rate": 0.01}, **config["entries"]},
                  "baselines": ["base"], "output": str(tmp_path / "out")},
        display="none",
    )  # fmt: skip
    for name in config["entries"]:
        ours, other = results.entry(name).best_run(), expected.entry(name).best_run()
        one, two = (r.folder.run(run.id) for r, run in ((results, ours), (expected, other)))
        assert one.predictions_file.read_bytes() == two.predictions_file.read_bytes()
        ours, other = one.result(), two.result()
        assert (ours.metrics, ours.checks, ours.costs.keys()) == (other.metrics, other.checks, other.costs.keys())
    assert len(note.read_text().split()) == 1
    assert [server.process.returncode for server in servers] == [-9, -9]  # the spare was never needed

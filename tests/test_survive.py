"""Faults tried on real processes: what is left is a record with its reason, and the same command mends it."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

import bakeoff
from bakeoff import running
from bakeoff.compute.run import request
from bakeoff.compute.run.execution import explained
from bakeoff.compute.run.request import limit
from bakeoff.config.config import Config
from bakeoff.driver.executor import LocalExecutor
from bakeoff.errors import SetupError
from bakeoff.interrupts import stoppable
from bakeoff.store.records import Run, Task
from bakeoff.store.run_folder import Folder
from tests.conftest import Inline, inline, write_splits
from tests.test_run import process_of_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model):
    """The config of a bakeoff whose trainings can be met in the middle, and its results when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = {
        "name": "tiny",
        "model": str(tiny_model),
        "data": write_splits(folder),
        "entries": {
            "lora": {"r": 4, "lora_dropout": 0.3, "learning_rate": 0.01},
            "top": {"method": "last_layers"},
            "small": {"method": "lora", "r": 1},
        },
        "baselines": ["base"],
        "tune": None,
        "protocol": {"epochs": 15, "max_tokens": 48, "seeds": 1},
        "output": str(folder / "out"),
    }
    return config, bakeoff.run(config, display="none")


@pytest.fixture
def config(undisturbed, tmp_path):
    """The same bakeoff in a folder of its own."""
    return undisturbed[0] | {"output": str(tmp_path / "out")}


def assert_same(results, expected):
    assert results.document.status == "done"
    assert results.verdict == expected.verdict
    for name, row in expected.entries.items():
        assert results.entries[name].metrics == row.metrics
        one, other = (r.folder.run(row.runs[0]) for r in (results, expected))
        assert one.predictions_file.read_bytes() == other.predictions_file.read_bytes()
        assert [r.row() | {"seconds": 0} for r in one.curve()] == [r.row() | {"seconds": 0} for r in other.curve()]
        for file in other.adapter.glob("*.safetensors"):
            assert (one.adapter / file.name).read_bytes() == file.read_bytes()
    assert not list(results.folder.path.rglob("checkpoints"))


def wait_for(found, seconds=240):
    until = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < until:
        time.sleep(0.005)
    assert value
    return value


def prepared(config, folder):
    """Return an executor whose server has loaded its libraries: a busy machine takes longer than a run may be silent.

    It is asked for a run of no bakeoff, and that has ended.
    """
    made = LocalExecutor(config)
    made.slots[0].server("train").ask(folder, Task(Run("none", "none", "entry", "lora", {}, 0), "train"), "cpu", 0)
    wait_for(lambda: "exit" in made.inbox.get(timeout=240)[1])
    return made


def checkpoints(config, entry):
    return list(Path(config["output"]).glob(f"runs/{entry}-*/checkpoints/*.safetensors"))


def test_hanging_and_crashing_runs_are_records_and_the_same_command_mends_all(
    config, undisturbed, tmp_path, monkeypatch
):
    signals = {"lora": signal.SIGSTOP, "top": signal.SIGSEGV}

    def disturb():
        for entry, number in signals.items():
            wait_for(lambda entry=entry: checkpoints(config, entry))
            os.kill(process_of_run(os.getpid()), number)

    thread = threading.Thread(target=disturb)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(running, "LocalExecutor", lambda config: prepared(config, tmp_path / "none"))
        results = bakeoff.run(config, {"safety.stall_seconds": 15}, display="none")
    thread.join()
    errors = {name: row.error for name, row in results.entries.items()}
    assert errors["lora"].startswith("no progress for 15 seconds (safety.stall_seconds)")
    assert errors["top"] == "its process ended with SIGSEGV"
    assert errors["small"] is None
    assert "Not in this comparison: lora and top (failed)." in results.verdict
    causes = [results.folder.run(row.runs[0]).result().cause for row in results.entries.values()]
    assert causes == ["stalled", "ended", None]
    again = bakeoff.run(config, display="none")
    assert_same(again, undisturbed[1])


def test_a_killed_driver_and_one_that_is_asked_to_stop_lose_nothing(config, undisturbed, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    output = Folder(config["output"])
    command = [sys.executable, "-m", "bakeoff", "run", str(file), "--display", "plain"]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: checkpoints(config, "lora"))
    driver.kill()
    driver.wait()
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: checkpoints(config, "top"))
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=240)
    assert driver.returncode == 130
    assert "top: stopping" in said
    assert "resumes after process" in said
    assert said.endswith("bakeoff: interrupted. Run the same command again to resume\n")
    assert checkpoints(config, "top")
    assert output.report_file.exists()
    left = bakeoff.load_results(output.path)  # top may have come to its end before it was asked
    assert [left.entries[name].status for name in ("lora", "small")] == ["done", "unfinished"]
    assert re.search(r"Not in this comparison: .*small \(unfinished\)", left.verdict)
    assert_same(bakeoff.run(config, display="none"), undisturbed[1])


def test_a_second_request_to_stop_writes_no_report(config, monkeypatch):
    def asked_twice(path, runs, stop):
        yield from inline(path, itertools.islice(runs, 1))
        signal.raise_signal(signal.SIGINT)
        assert stop()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(running, "LocalExecutor", lambda _: Inline(asked_twice))
    with pytest.raises(KeyboardInterrupt):
        bakeoff.run(config, display="none")
    assert Folder(config["output"]).planned()
    assert not Folder(config["output"]).report_file.exists()


def test_a_second_request_to_stop_raises_at_once():
    before = signal.getsignal(signal.SIGINT)
    with stoppable() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == before


def test_an_error_outside_of_a_runs_own_record_stands_in_its_log(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("ranked")

    monkeypatch.setattr(request, "execute", broken)
    monkeypatch.setattr(Folder, "plan", lambda _: None)
    monkeypatch.setattr(request, "planned_config", lambda *_: Config(data="docstrings", entries=["lora"]))
    with open(2, "w", closefd=False) as stderr, (tmp_path / "events").open("w") as events:
        monkeypatch.setattr(sys, "stderr", stderr)
        request.serve([f'{{"folder": "{tmp_path}", "run": "a-1", "left": "train"}}'], events, bool)
    assert '{"exit": 1}' in (tmp_path / "events").read_text()
    assert Folder(tmp_path).run("a-1").log_file.read_text().endswith("KeyError: 'ranked'\n")


def test_a_limit_of_memory_ends_in_a_reason():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            limit(4 * 10**9)
            torch.ones(10**10)
        except RuntimeError as error:
            os.write(writing, " ".join(explained(error)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    assert text.startswith("out of memory (")
    assert text.endswith("or a smaller max_tokens or batch_size memory")


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, some kilobytes large; `mount` with other options changes it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        done = subprocess.run(["mount", *options, str(place)], capture_output=True)
        return done.returncode == 0

    if not mount("-t", "tmpfs", "-o", "size=150k", "tmpfs"):
        pytest.skip("needs the right to mount a disk")
    yield place, mount
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_and_a_read_only_one_are_told_and_what_is_there_is_gone_on_with(config, undisturbed, disk):
    place, mount = disk
    config["output"] = str(place / "out")
    with pytest.raises(SetupError, match="No space left on device. Try: -s output=FOLDER, another folder"):
        bakeoff.run(config, display="none")
    mount("-o", "remount,ro")
    with pytest.raises(SetupError, match="Read-only file system"):
        bakeoff.run(config, display="none")
    mount("-o", "remount,rw,size=50m")
    assert_same(bakeoff.run(config, display="none"), undisturbed[1])

"""A Ray cluster of three nodes on this machine, by `make test-scale`: a node is removed, the driver killed.

A fake resource stands in for GPUs. One node does not see the run folder, if this user may hide it (root on Linux).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import bakeoff
from bakeoff.store.event_log import Reader
from bakeoff.store.run_folder import Folder
from tests.test_slots import without_neighbours

pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]  # Ray's own
SECONDS = 600
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"
}  # fmt: skip


def left_by_runs(folder):
    """Return the records of runs, and the names of what runs have left."""
    found = without_neighbours(folder)
    return found | {"files": [name for name in found["files"] if name.startswith("runs/")]}


def in_one_process(config, folder):
    """Return the records that the bakeoff of a config file leaves in one process."""
    here = json.loads(config.read_text()) | {"machine": {}, "output": str(folder)}
    return left_by_runs(bakeoff.run(here, display="none").folder)


@pytest.fixture(scope="module")
def cluster():
    """A head without room for runs, and two nodes with one slot each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 10**8, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        for _ in range(2):
            made.add_node(num_cpus=1, resources={"slot": 1}, object_store_memory=10**8)
        yield made
        made.shutdown()


@pytest.fixture
def on_ray(tiny_config, cluster, tmp_path):
    """A config of a tuned and a fixed entry whose runs are carried out on the cluster, in a file."""
    tiny_config |= {
        "entries": {"lora": {"r": 2}, "last_layers": {"learning_rate": 0.01}}, "tune": {"trials": 2},
        "baselines": ["base", "lead-1"], "safety": {"checkpoint_seconds": 0.01},
        "machine": {"executor": "ray", "address": cluster.address, "resources": {"slot": 1}},
    }  # fmt: skip
    file = tmp_path / "on_ray.yaml"
    file.write_text(json.dumps(tiny_config))
    return file


@pytest.fixture
def expected(on_ray, tmp_path, monkeypatch):
    """The records that the same bakeoff leaves in one process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return in_one_process(on_ray, tmp_path / "here")


def started(config):
    """Start the command in a process."""
    return subprocess.Popen([sys.executable, "-m", "bakeoff", "run", str(config), "--display", "plain"])


def until(folder, kind, count, process):
    """Wait until the bakeoff's log has so many events of a kind."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        events = list(Reader(folder.events_file).new_events())
        if sum(event.kind == kind for event in events) >= count:
            return
        assert process.poll() is None, "ended before"
        time.sleep(0.1)
    raise AssertionError(f"no {count} events of kind {kind}")


def test_a_node_is_removed_and_the_driver_killed_and_nothing_is_lost_or_changed(on_ray, expected, cluster):
    folder = Folder(json.loads(on_ray.read_text())["output"])
    process = started(on_ray)
    until(folder, "metrics", 1, process)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    until(folder, "done", 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cluster.add_node(num_cpus=1, resources={"slot": 1}, object_store_memory=10**8)
    first, second = started(on_ray), None
    until(folder, "start", 2, first)
    second = subprocess.run(
        [sys.executable, "-m", "bakeoff", "run", str(on_ray)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 2, second.stderr
    assert first.wait(SECONDS) == 0
    assert left_by_runs(folder) == expected


def test_a_run_over_two_nodes_one_of_which_is_removed_is_as_in_one_process(on_ray, cluster, tmp_path):
    config = over_two(on_ray, tmp_path / "model", resources={"slot": 2})
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1, resources={"slot": 1}, object_store_memory=10**8)
    folder, process = Folder(config["output"]), started(on_ray)
    until(folder, "metrics", 2, process)
    cluster.remove_node(node_of_rank_1(cluster), allow_graceful=False)
    cluster.add_node(num_cpus=1, resources={"slot": 1}, object_store_memory=10**8)
    assert process.wait(SECONDS) == 0
    notes = [event.text for event in Reader(folder.events_file).new_events() if event.kind == "note"]
    assert sum("is lost; its run continues elsewhere" in note for note in notes) == 1
    assert_as_in_one_process(config, tmp_path / "here")


def over_two(file, model, **machine):
    """Return a config of LoRA and full whose runs are over two devices, without dropout; write it to its file."""
    config = json.loads(file.read_text())
    config |= {"entries": {"lora": {"learning_rate": 0.01}, "full": {"learning_rate": 0.001}}, "baselines": ["base"]}
    config["model"] = without_dropout(Path(config["model"]), model)
    config["protocol"] |= {"precision": "fp32", "epochs": 8}
    config["machine"] |= machine | {"shards": 2}
    config.pop("tune")
    file.write_text(json.dumps(config))
    return config


def assert_as_in_one_process(config, output):
    """Compare the records of runs over two devices with those of one process, up to rounding."""
    folder = Folder(config["output"])
    here = bakeoff.run(config | {"machine": {}, "output": str(output)}, display="none").folder
    for run in here.runs():
        found, wanted = folder.run(run.id).result(), here.run(run.id).result()
        assert (found.status, found.shards, found.checks) == ("done", 2, wanted.checks)
        assert found.metrics == {n: pytest.approx(value, rel=1e-5, abs=1e-5) for n, value in wanted.metrics.items()}


def without_dropout(model, copy):
    """Return the path of a copy of a model without dropout, for which each process draws other numbers."""
    shutil.copytree(model, copy)
    facts = json.loads((copy / "config.json").read_text())
    dropouts = {name: 0.0 for name in facts if name.endswith("pdrop")}
    (copy / "config.json").write_text(json.dumps(facts | dropouts))
    return str(copy)


def node_of_rank_1(cluster):
    """Return the node on which a run's second process is: it is a child of an actor's, and that one of a raylet.

    Other bakeoffs on this machine may have such processes, too.
    """
    nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended
                if b"run.members" in file.read_bytes():
                    raylet = parent(parent(int(file.parent.name)))
                    if raylet in nodes:
                        return nodes[raylet]
    raise AssertionError("no such process")


def parent(number):
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_that_does_not_see_the_folder_sends_back_what_runs_leave(on_ray, expected, cluster):
    if os.geteuid() != 0:
        pytest.skip("needs the right to mount a disk")
    folder = Folder(json.loads(on_ray.read_text())["output"])
    folder.path.parent.mkdir(parents=True)
    for node in cluster.worker_nodes.copy():
        cluster.remove_node(node)
    start = f"ray start --address={cluster.address} --num-cpus=1 --resources='{{\"slot\": 1}}' --block"
    hidden = f"mount -t tmpfs none {folder.path.parent} && exec {Path(sys.executable).parent}/{start}"
    node = subprocess.Popen(["unshare", "--mount", "sh", "-c", hidden])
    config = json.loads(on_ray.read_text())
    config["machine"]["workers"] = 1  # waits for the node
    on_ray.write_text(json.dumps(config))
    try:
        assert started(on_ray).wait(SECONDS) == 0
        assert left_by_runs(folder) == expected
    finally:
        node.terminate()
        node.wait()

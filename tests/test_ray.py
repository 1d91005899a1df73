"""Runs on the nodes of a cluster: they go, come back, do not see the folder, or do not fit. With Ray: test_scale.py."""

import errno
import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

import bakeoff
from bakeoff.config.loading import load_config
from bakeoff.driver import node, parcel, ray_cluster, ray_executor, slot_folder
from bakeoff.driver.parcel import Changes, unpack
from bakeoff.errors import ConfigError, SetupError
from bakeoff.store.run_folder import Folder
from tests import ray_stand_in
from tests.ray_stand_in import InlineServer, Ray
from tests.test_slots import without_neighbours

MACHINE = {"executor": "ray", "resources": {"CPU": 1}}


@pytest.fixture
def config(tiny_config):
    """A bakeoff of one tuned entry."""
    return {**tiny_config, "entries": {"lora": {"r": 2}}, "tune": {"trials": 2}, "baselines": ["base"]}


@pytest.fixture
def expected(config, tmp_path):
    """The records that the bakeoff leaves where there is no cluster."""
    return without_neighbours(bakeoff.run({**config, "output": str(tmp_path / "here")}, display="none").folder)


def notes(folder):
    """Return all notes of a bakeoff's log."""
    from bakeoff.store.event_log import Reader

    return [event.text for event in Reader(folder.events_file).new_events() if event.kind == "note"]


def actor_of(ray, server):
    """Return the actor that has a server."""
    return next(actor for actor in ray.living() if server in actor.node.servers.values())


def losing(ray, times, when=lambda event: event.kind == "metrics" and event.step):
    """Return what lets the node of a run go at an event, so many times."""
    left = [times]

    def seen(server, event):
        if left[0] and when(event):
            left[0] -= 1
            ray.lose(actor_of(ray, server))

    return seen


@pytest.mark.parametrize("sees", [True, False], ids=["shared folder", "no shared folder"])
def test_nodes_that_come_and_go_leave_the_records_of_one_process(config, expected, monkeypatch, sees):
    ray = ray_stand_in.installed(monkeypatch, Ray(2))
    monkeypatch.setattr(InlineServer, "seen", staticmethod(losing(ray, 3)))
    facts = node.Node.facts
    monkeypatch.setattr(node.Node, "facts", lambda *words: facts(*words) | {"sees": sees})
    results = bakeoff.run({**config, "machine": MACHINE}, display="none")
    found = without_neighbours(results.folder)
    assert {*found["files"]} ^ {*expected["files"]} == set()
    assert found == expected
    assert sum("is lost" in note for note in notes(results.folder)) >= 1
    assert len(ray.actors) == 5  # two, and one for each that was lost
    places = {actor.node.folder and actor.node.folder.path for actor in ray.actors}
    assert (places == {None}) is sees


@pytest.mark.parametrize("kind", ["trial", "entry"])
def test_a_node_that_is_cut_off_and_sees_the_disk_changes_nothing(config, expected, monkeypatch, kind):
    ray = ray_stand_in.installed(monkeypatch, Ray(2))
    cut_off = []

    def seen(server, event):
        if (
            not cut_off
            and event.kind == "metrics"
            and event.step
            and Folder(server.place).run(event.run).run().kind == kind
        ):
            cut_off.append((server.place, event.run))
            ray.lose(actor_of(ray, server))
        elif cut_off and server.place != cut_off[0][0]:
            ray_stand_in.spoil(*cut_off[0])

    monkeypatch.setattr(InlineServer, "seen", staticmethod(seen))
    bakeoff.run({**config, "machine": MACHINE}, display="none")
    ray_stand_in.spoil(*cut_off[0])
    again = bakeoff.run({**config, "machine": {}}, display="none")
    assert without_neighbours(again.folder) == expected


def test_a_node_whose_disk_is_full_is_left_with_the_reason_and_its_run_continues(config, expected, monkeypatch):
    ray_stand_in.installed(monkeypatch, Ray(2))
    facts, unpack, left = node.Node.facts, node.unpack, [3]
    monkeypatch.setattr(node.Node, "facts", lambda *words: facts(*words) | {"sees": False})
    monkeypatch.setattr(node, "HEAR_SECONDS", 0.1)

    def full(folder, files):
        if left[0] and any(name.startswith("runs/") for name in files):
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        unpack(folder, files)

    monkeypatch.setattr(node, "unpack", full)
    results = bakeoff.run({**config, "machine": MACHINE}, display="none")
    assert without_neighbours(results.folder) == expected
    assert left == [0]
    assert any("is lost ([Errno 28] No space left on device); its run" in note for note in notes(results.folder))


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_disk_that_is_full_when_files_of_a_run_are_moved_is_one_line_and_nothing_is_lost(
    config, expected, monkeypatch, call
):
    share, calls = slot_folder.share, [0]

    def full(source, target, names):
        calls[0] += 1
        if calls[0] == call:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        share(source, target, names)

    ray_stand_in.installed(monkeypatch, Ray(2))
    with monkeypatch.context() as patch:
        patch.setattr(slot_folder, "share", full)
        with pytest.raises(SetupError, match=r"^[^\n]*: No space left on device\. Try: [^\n]*$"):
            bakeoff.run({**config, "machine": MACHINE}, display="none")
    ray_stand_in.installed(monkeypatch, Ray(2))
    assert without_neighbours(bakeoff.run({**config, "machine": MACHINE}, display="none").folder) == expected


def test_a_run_that_ends_just_before_its_node_continues_elsewhere(config, expected, monkeypatch):
    ray = ray_stand_in.installed(monkeypatch, Ray(2))
    monkeypatch.setattr(ray_executor, "LAST_SECONDS", 0.5)
    gone = []

    def seen(server, event):
        if not gone and event.kind == "metrics" and event.step:
            gone.append(actor_of(ray, server))
            server.gone = True
            server.inbox.put((server, {"exit": -9}))
            threading.Timer(0.1, ray.lose, gone).start()

    monkeypatch.setattr(InlineServer, "seen", staticmethod(seen))
    results = bakeoff.run({**config, "machine": MACHINE}, display="none")
    assert without_neighbours(results.folder) == expected
    assert '"failed"' not in results.folder.events_file.read_text()


@pytest.mark.parametrize("ahead", [3600, -3600])
@pytest.mark.parametrize("sees", [True, False], ids=["shared folder", "no shared folder"])
def test_nodes_whose_clocks_are_wrong_by_an_hour_leave_the_same_records(config, expected, monkeypatch, sees, ahead):
    ray = ray_stand_in.installed(monkeypatch, Ray(2))
    right, lost, here = time.time, losing(ray, 1), threading.current_thread()
    monkeypatch.setattr(time, "time", lambda: right() + ahead * (threading.current_thread() is not here))

    def seen(server, event):
        for place in [config["output"], *(actor.node.folder and actor.node.folder.path for actor in ray.living())]:
            for folder, _, names in os.walk(Folder(place).run(event.run).path) if place else ():
                for name in names:
                    with suppress(FileNotFoundError):  # what another thread was writing has its name now
                        os.utime(Path(folder, name), (right() + ahead, right() + ahead))
        lost(server, event)

    monkeypatch.setattr(InlineServer, "seen", staticmethod(seen))
    facts = node.Node.facts
    monkeypatch.setattr(node.Node, "facts", lambda *words: facts(*words) | {"sees": sees})
    begun = right()
    results = bakeoff.run({**config, "machine": MACHINE}, display="none")
    assert without_neighbours(results.folder) == expected
    times = [json.loads(line)["time"] for line in results.folder.events_file.read_text().splitlines()]
    assert times == sorted(times)
    assert begun - 1 < times[0] <= times[-1] < right() + 1


def test_when_the_head_is_gone_one_line_says_so_and_the_same_command_resumes(config, expected, monkeypatch):
    ray = ray_stand_in.installed(monkeypatch, Ray(2))
    servers = set()

    def seen(server, event):
        servers.add(server)
        if event.kind == "metrics":
            ray.head.gone, ray.head.silent = True, 45.0

    monkeypatch.setattr(InlineServer, "seen", staticmethod(seen))
    with pytest.raises(
        SetupError, match=r"^machine\.address: the head of the Ray cluster \(10\.0\.0\.1:6379\) has not "
    ):
        bakeoff.run({**config, "machine": MACHINE}, display="none")
    assert servers
    assert all(server.gone for server in servers)
    ray.head.gone, ray.head.silent = False, 0.0
    monkeypatch.setattr(InlineServer, "seen", staticmethod(lambda *_: None))
    ray.actors.clear()
    assert without_neighbours(bakeoff.run({**config, "machine": MACHINE}, display="none").folder) == expected


def test_a_head_that_takes_no_connection_is_gone_after_a_while(monkeypatch):
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ray_cluster, "PATIENCE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = ray_cluster.Head(f"127.0.0.1:{listening.getsockname()[1]}")
        time.sleep(0.1)
        assert not head.gone
    end = time.monotonic() + 60
    while not head.gone:
        assert time.monotonic() < end
        time.sleep(0.01)
    head.close()


def test_a_run_that_loses_every_node_fails_and_the_others_are_done(config, monkeypatch):
    ray = ray_stand_in.installed(monkeypatch, Ray(1))
    fatal = losing(ray, 99, lambda event: event.kind == "state" and event.run.startswith("last_layers"))
    monkeypatch.setattr(InlineServer, "seen", staticmethod(fatal))
    entries = {"lora": {"r": 2}, "last_layers": {}}
    results = bakeoff.run({**config, "tune": None, "entries": entries, "machine": MACHINE}, display="none")
    rows = results.document.entries
    assert (rows["lora"].status, rows["last_layers"].status) == ("done", "failed")
    assert rows["last_layers"].error == "5 machines were lost while they carried it out"


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"base": "another"}, "node-1 has another base than this bakeoff was planned with"),
        ({"base": None, "error": "model: is not here"}, r"node-1 does not have the base \(model: is not here\)"),
        ({"machine": {"torch": "1.0"}}, "node-1 has torch 1.0, and here is"),
    ],
)
def test_a_node_that_does_not_fit_is_not_used(config, monkeypatch, other, fault):
    ray_stand_in.installed(monkeypatch, Ray(1))
    facts = node.Node.facts

    def with_other(*words):
        found = facts(*words)
        return found | other | {"host": "node-1", "machine": found["machine"] | other.get("machine", {})}

    monkeypatch.setattr(node.Node, "facts", with_other)
    with pytest.raises(SetupError, match=rf"^machine\.executor: {fault}.*Try: ") as error:
        bakeoff.run({**config, "machine": MACHINE}, display="none")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("machine", "kind", "fault"),
    [
        ({"executor": "slrum"}, ConfigError, "executor: .*local.*ray"),
        ({"executor": "ray", "devices": [0]}, ConfigError, "devices: Ray says which devices"),
        ({"address": "10.0.0.1:6379"}, ConfigError, "address: is for a cluster. Try: executor: ray"),
        ({"executor": "ray", "resources": {"GPU": 0}}, ConfigError, r"resources"),
        (
            {"executor": "ray", "resources": {"GPU": 1}},
            SetupError,
            r"machine\.resources: no node of the cluster has GPU 1\. There is: CPU 1, CPU 1\. Try: ",
        ),
    ],
)
def test_what_a_cluster_cannot_be_asked_is_one_line(config, monkeypatch, machine, kind, fault):
    ray_stand_in.installed(monkeypatch, Ray(2))
    with pytest.raises(kind, match=fault) as error:
        bakeoff.run({**config, "machine": machine}, display="none")
    assert "\n" not in str(error.value)
    assert not load_config({**config, "machine": {}}).folder.exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port", "[::1]:1"])
def test_an_address_that_does_not_answer_is_one_line(config, monkeypatch, address):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with pytest.raises(
        SetupError, match=rf"^machine\.address: {re.escape(address)} does not answer \(.*\). Try: ray status"
    ) as error:
        bakeoff.run({**config, "machine": {**MACHINE, "address": address}}, display="none")
    assert "\n" not in str(error.value)
    assert ("invalid literal" in str(error.value)) is ("port" in address)


def test_without_ray_the_command_says_what_to_install(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r"ray is not installed. Try: pip install 'bakeoff\[ray\]'"):
        bakeoff.run({**config, "machine": MACHINE}, display="none")


@pytest.mark.parametrize(
    "name", ["../config.yaml", "/etc/passwd", "runs/../../x.json", "runs/a/adapter/../../b.json", "report.html"]
)
def test_a_parcel_writes_nothing_but_files_of_runs(tmp_path, name):
    folder = Folder(tmp_path / "out")
    with pytest.raises(SetupError, match="which is no file of a run"):
        unpack(folder, {name: b"x"})
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.parametrize("name", ["plan.json", ".bakeoff", "data/train.jsonl", "runs/lora-2/result.json"])
def test_a_node_changes_nothing_but_files_of_the_run_that_it_has(tmp_path, name):
    cluster = SimpleNamespace(folder=Folder(tmp_path))
    message = {"run": "lora-1", "files": {name: b"x"}, "checkpoints": []}
    with pytest.raises(SetupError, match="which is no file of a run"):
        ray_executor.RayExecutor.take_files(cluster, message)
    assert [*tmp_path.rglob("*")] == []


def test_a_parcel_has_what_changed_since_and_what_is_still_there(tmp_path):
    folder = Folder(tmp_path)
    files = folder.run("lora-1")
    checkpoint = f"{1:09d}-{'a' * 64}.safetensors"
    names = ["result.json", "log.txt", "adapter/adapter_model.safetensors", f"checkpoints/{checkpoint}"]
    for name in [*names, ".result.json.12-ab.tmp"]:
        (files.path / name).parent.mkdir(parents=True, exist_ok=True)
        (files.path / name).write_bytes(b"old")
    assert sorted(parcel.of_run(folder, ["lora-1"])) == sorted(f"runs/lora-1/{name}" for name in names)
    changes = Changes(folder, "lora-1")
    assert changes.take(ended=True) == ({}, [checkpoint])
    (files.path / names[0]).write_bytes(b"newer")
    (files.path / names[2]).write_bytes(b"weights")
    (files.path / "adapter/.README.md").write_bytes(b"there for a moment")
    assert changes.take(ended=False) == ({"runs/lora-1/result.json": b"newer"}, [checkpoint])
    (files.path / names[3]).unlink()
    assert changes.take(ended=True) == ({f"runs/lora-1/{names[2]}": b"weights"}, [])
    assert changes.take(ended=True) == ({}, [])

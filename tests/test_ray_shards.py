"""Runs over several nodes of a cluster. With Ray: test_scale.py."""

import shutil
from types import SimpleNamespace

import pytest

import bakeoff
from bakeoff.compute.run import members
from bakeoff.config.machine import MachineConfig
from bakeoff.driver import node, ray_executor
from bakeoff.errors import SetupError
from tests import ray_stand_in
from tests.ray_stand_in import InlineServer, Ray
from tests.test_ray import notes

MACHINE = {"executor": "ray", "resources": {"CPU": 2}, "shards": 2}


@pytest.fixture
def config(tiny_config):
    """A bakeoff of one entry's run, and the base's."""
    protocol = {**tiny_config["protocol"], "precision": "fp32", "seeds": 1}
    entries = {"lora": {"r": 2, "learning_rate": 0.01}}
    kept = {name: value for name, value in tiny_config.items() if name != "tune"}
    return {
        **kept,
        "entries": entries,
        "baselines": ["base"],
        "protocol": protocol,
        "safety": {"checkpoint_seconds": 0.01},
    }


def test_a_run_over_two_nodes_that_loses_one_continues_on_others_as_in_one_process(config, monkeypatch):
    folder = bakeoff.run(config, display="none").folder
    run = next(run for run in folder.runs() if run.entry == "lora")
    wanted, outputs = folder.run(run.id).result(), outputs_of(folder, run)
    shutil.rmtree(folder.run(run.id).path)
    ray = ray_stand_in.installed(monkeypatch, Ray(3))
    monkeypatch.setattr(members, "SETTLE_SECONDS", 0.2)
    lost = []

    def seen(server, event):
        if event.kind == "metrics" and event.step and not lost:
            lost.append(next(actor for actor in ray.living() if actor.node.rank_host))
            ray.lose(lost[0])

    monkeypatch.setattr(InlineServer, "seen", staticmethod(seen))
    bakeoff.run({**config, "machine": MACHINE}, display="none")
    assert (len(lost), len(ray.actors), len(ray.living())) == (1, 4, 0)
    assert sum("is lost; its run continues elsewhere" in note for note in notes(folder)) == 1
    found = folder.run(run.id).result()
    assert (found.status, found.shards, found.checks) == ("done", 2, wanted.checks)
    assert found.metrics == {name: pytest.approx(value, rel=1e-5, abs=1e-5) for name, value in wanted.metrics.items()}
    assert outputs_of(folder, run) == outputs


def outputs_of(folder, run):
    return [row.output for row in folder.run(run.id).predictions()]


def test_a_node_without_the_folder_is_refused_for_runs_over_several(config, monkeypatch):
    ray_stand_in.installed(monkeypatch, Ray(2))
    facts = node.Node.facts
    monkeypatch.setattr(node.Node, "facts", lambda *words: facts(*words) | {"sees": False, "host": "node-1"})
    with pytest.raises(SetupError, match=r"^machine\.executor: node-1 does not see the run folder, .* Try: an output"):
        bakeoff.run({**config, "machine": MACHINE}, display="none")


def nodes_with(monkeypatch, *nodes):
    """Let the cluster have nodes with these resources."""
    ray = ray_stand_in.installed(monkeypatch, Ray(1))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": has} for has in nodes])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": sum(has.get("GPU", 0) for has in nodes)})


def executor_of(**machine):
    return ray_executor.RayExecutor(SimpleNamespace(machine=MachineConfig(executor="ray", **machine)))


@pytest.mark.parametrize(
    ("gpus", "shards", "parts", "slots"),
    [
        ([8], 8, 1, 1),
        ([8, 8], 8, 1, 2),
        ([4, 4], 8, 2, 1),
        ([4, 2, 2], 8, 4, 1),
        ([4, 4, 4], 6, 2, 1),
        ([1, 1, 1, 1, 1], 2, 2, 2),
        ([4, 4], 5, 5, 1),
    ],
)
def test_a_run_is_on_as_few_nodes_as_have_room_for_it(monkeypatch, gpus, shards, parts, slots):
    nodes_with(monkeypatch, *({"GPU": count, "CPU": 16} for count in gpus))
    executor = executor_of(shards=shards, resources={"GPU": shards, "CPU": 2 * shards})
    assert executor.threads == (2 if shards > parts else None)
    assert (executor.parts, executor.ranks, executor.room()) == (parts, shards // parts, slots)
    assert executor.share == {"GPU": shards / parts, "CPU": 2 * shards / parts}


@pytest.mark.parametrize(
    ("has", "asked", "slots"), [(1, 0.1, 10), (0.3, 0.1, 3), (1, 0.3, 3), (8, 8.5, 0), (2**33, 1, 1024)]
)
def test_parts_of_a_resource_are_counted_as_decimal_fractions(monkeypatch, has, asked, slots):
    nodes_with(monkeypatch, {"slot": has})
    assert executor_of(workers=1, resources={"slot": asked}).room() == slots


def test_runs_share_a_gpu_if_each_takes_a_part_of_it(monkeypatch):
    nodes_with(monkeypatch, {"GPU": 2, "CPU": 8})
    assert executor_of(resources={"GPU": 0.5}).room() == 4


def test_amounts_have_as_many_decimals_as_ray_takes(monkeypatch):
    nodes_with(monkeypatch, *[{"CPU": 1}] * 3)
    executor = executor_of(shards=3, resources={"CPU": 1 + 1e-9})
    assert executor.share == {"CPU": 1.0}
    nodes_with(monkeypatch, *[{"CPU": 0.5}] * 3)
    executor = executor_of(shards=3, resources={"CPU": 1})
    assert (executor.parts, executor.share) == (3, {"CPU": 0.3333})


def test_what_ray_itself_refuses_is_one_line(config, monkeypatch):
    def refuses(*_):
        raise ValueError("Resources must be\nwhole numbers")

    ray_stand_in.installed(monkeypatch, Ray(2))
    monkeypatch.setattr(Ray, "place", refuses)
    with pytest.raises(SetupError, match=r"^machine\.resources: Ray refuses CPU 1 \(whole numbers\)\. Try: "):
        bakeoff.run({**config, "machine": {"executor": "ray", "resources": {"CPU": 1}}}, display="none")


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"shards": 8}, r"no nodes of the cluster have together GPU 8\. There is: GPU 4, GPU 2\. Try: "),
        (
            {"shards": 4, "resources": {"GPU": 2}},
            r"GPU 2 for machine\.shards: 4, each of which has a GPU\. Try: GPU: 4",
        ),
        ({"resources": {"node:x": 1}}, r"no node of the cluster has node:x 1\. There is: GPU 4, GPU 2\. Try: "),
        ({"resources": {"slot": 1e-300}}, r"slot 1e-300 is less than Ray counts\. Try: slot: 0\.0001"),
    ],
)
def test_too_few_devices_in_all_nodes_are_one_line(monkeypatch, machine, reason):
    nodes_with(monkeypatch, {"GPU": 4}, {"GPU": 2})
    with pytest.raises(SetupError, match=rf"^machine\.resources: {reason}"):
        executor_of(**machine)

"""One run over several processes takes the steps, and writes the outputs, of one process."""

import shutil
import signal

import pytest
import torch

import bakeoff
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.model.sharding import spread
from bakeoff.compute.model.team import ALONE, whole
from bakeoff.compute.run import members
from bakeoff.compute.run.checks import fingerprints
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, start
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method
from tests.ranks import together

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]


def plain(adapted):
    """Return a model without dropout, for which each process draws other numbers."""
    for module in adapted.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return adapted


def trained(model, settings, team=ALONE, **protocol):
    """Return what a training, and reading and writing after it, give."""
    base = load_base(str(model), "fp32", team=team)
    torch.manual_seed(0)
    method = build_method("x", settings)
    adapted = plain(adapt(base, method))
    spread(base, adapted)
    start(base, adapted, method, ROWS, 4)
    before = fingerprints(adapted)
    curve = []
    protocol = ProtocolConfig(epochs=2, batch_size=4, precision="fp32", **protocol)
    trainer = Trainer(base, adapted, method, protocol, 0, lambda kind, row: curve.append((kind, row)))
    result = trainer.train(ROWS, ROWS[:5])
    losses = [(row["validation/loss"], row.get("train/loss")) for kind, row in curve if kind == "metrics"]
    prompts = [row.prompt for row in ROWS]
    return {
        "losses": losses, "tokens": result.tokens, "hashes": before, "moved": before != fingerprints(adapted),
        "weights": {n: whole(w).clone() for n, w in trainable(adapted).items()},
        "outputs": generate(base, adapted, prompts, 5), "read": evaluate_loss(base, adapted, ROWS, 4),
    }  # fmt: skip


def same(found, wanted):
    """Compare what a team found with what one process found, to the documented tolerance."""
    for pair, other in zip(found["losses"], wanted["losses"], strict=True):
        assert pair == (pytest.approx(other[0], rel=1e-5), other[1] and pytest.approx(other[1], rel=1e-5))
    assert [count for _, count in found["read"]] == [count for _, count in wanted["read"]]
    assert [loss for loss, _ in found["read"]] == pytest.approx([loss for loss, _ in wanted["read"]], rel=1e-4)
    assert found["outputs"] == wanted["outputs"]
    assert found["hashes"] == wanted["hashes"]
    assert found["tokens"] == wanted["tokens"]


@pytest.mark.parametrize(("method", "sharded", "size"), [("lora", True, 2), ("full", True, 3), ("full", False, 2)])
def test_a_team_trains_as_one_process_does(tiny_model, tmp_path, method, sharded, size):
    wanted = trained(tiny_model, {"method": method})
    assert wanted["moved"]
    found = together(tmp_path, size, sharded, lambda team: trained(tiny_model, {"method": method}, team))
    for one in found:
        same(one, wanted)
        for name, weight in one["weights"].items():
            assert torch.equal(weight, found[0]["weights"][name]), name


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_a_training_resumes_from_a_checkpoint_of_another_number_of_processes(tiny_model, tmp_path, before, after):
    def part(team, until):
        base = load_base(str(tiny_model), "fp32", team=team)
        method = build_method("x", {"method": "full"})
        adapted = plain(adapt(base, method))
        spread(base, adapted)
        protocol = ProtocolConfig(epochs=2, batch_size=4, precision="fp32")
        trainer = Trainer(base, adapted, method, protocol, 0, lambda kind, row: None, rungs=[2])
        carried = load_newest(tmp_path / "saved", trainer)
        result = trainer.train(ROWS, ROWS[:5], until)
        save_checkpoint(tmp_path / "saved", trainer, {"from": team.size})
        return carried, result.validation_loss

    def carried_out(size, until):
        (tmp_path / str(until)).mkdir()
        if size == 1:
            return [part(ALONE, until)]
        return together(tmp_path / str(until), size, True, lambda team: part(team, until))

    carried_out(before, 2)
    wanted = trained(tiny_model, {"method": "full"})["losses"][-1][0]
    for carried, loss in carried_out(after, None):
        assert carried == {"from": before}
        assert loss == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def planned(tiny_config, tiny_model):
    """The folder of a planned bakeoff with one entry whose runs two processes share, and its run."""
    config = tiny_config | {
        "entries": {"lora": {"r": 4, "learning_rate": 0.01}}, "machine": {"shards": 2},
        "protocol": {**tiny_config["protocol"], "precision": "fp32"},
    }  # fmt: skip
    wanted = bakeoff.run(config | {"machine": {}}, display="none")
    run = next(run for run in wanted.folder.runs() if run.entry == "lora")
    before = wanted.folder.run(run.id)
    record, rows = before.result(), before.predictions()
    shutil.rmtree(before.path)
    return config, wanted.folder, run, record, rows


def test_a_run_of_two_processes_leaves_the_record_of_one(planned):
    config, folder, run, wanted, rows = planned
    bakeoff.run(config, display="none")
    found = folder.run(run.id).result()
    assert (found.status, found.shards, wanted.shards) == ("done", 2, 1)
    assert found.checks == wanted.checks
    assert found.metrics.keys() == wanted.metrics.keys()
    for name, value in wanted.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert [row.output for row in folder.run(run.id).predictions()] == [row.output for row in rows]


def test_a_process_that_is_killed_ends_the_run_with_its_name(planned, monkeypatch):
    config, folder, run, *_ = planned
    started = []
    plain_start = members.Members.start
    monkeypatch.setattr(members.Members, "start", lambda self, asked: (plain_start(self, asked), started.append(self)))
    monkeypatch.setattr("bakeoff.compute.run.worker.work_on", killing(started))
    bakeoff.run(config, display="none")
    found = folder.run(run.id).result()
    assert (found.status, found.cause) == ("failed", "ended")
    assert found.error.startswith("the process of rank 1 ended with SIGKILL. Out of memory?")
    assert [process.poll() for process in started[0].processes] == [-signal.SIGKILL]


def killing(started):
    """Return work of rank 0 in the middle of which the other process is killed."""

    def work_on(folder, run, left, emit, stop_requested, given):
        started[0].processes[0].kill()
        given.team.wait()

    return work_on

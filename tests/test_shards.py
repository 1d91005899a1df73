"""One run over several processes takes the steps, and writes the outputs, of one process."""

import shutil
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils.weak import WeakIdKeyDictionary

import bakeoff
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.model.sharding import spread, stacks_of
from bakeoff.compute.model.team import ALONE, whole
from bakeoff.compute.run import members
from bakeoff.compute.run.checks import fingerprints
from bakeoff.compute.run.execution import execute
from bakeoff.compute.training import loop
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, start
from bakeoff.config.loading import load_config
from bakeoff.config.machine import MachineConfig
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.driver.device import places_of
from bakeoff.driver.executor import hiding_others
from bakeoff.driver.memory import Sizes, sizes_of
from bakeoff.driver.plan import make_plan
from bakeoff.errors import ConfigError, SetupError
from bakeoff.library_errors import one_line
from bakeoff.methods import build_method, method_class
from bakeoff.store.files import write_json
from bakeoff.testing.families import FAMILIES, family_base
from tests.ranks import together

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]


def plain(adapted):
    """Return a model without dropout, for which each process draws other numbers."""
    for module in adapted.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return adapted


def trained(model, settings, team=ALONE, **protocol):
    """Return what a training, and reading and writing after it, give."""
    return trained_on(load_base(str(model), "fp32", team=team), settings, **protocol)


def trained_on(base, settings, validation=5, **protocol):
    torch.manual_seed(0)
    method = build_method("x", settings)
    adapted = plain(adapt(base, method))
    spread(base, adapted)
    start(base, adapted, method, ROWS, 4)
    before = fingerprints(adapted)
    curve = []
    protocol = ProtocolConfig(epochs=2, batch_size=4, precision="fp32", **protocol)
    trainer = Trainer(base, adapted, method, protocol, 0, lambda kind, row: curve.append((kind, row)))
    result = trainer.train(ROWS, ROWS[:validation])
    losses = [(row["validation/loss"], row.get("train/loss")) for kind, row in curve if kind == "metrics"]
    prompts, done = [row.prompt for row in ROWS], []
    return {
        "losses": losses, "tokens": result.tokens, "hashes": before, "moved": before != fingerprints(adapted),
        "weights": {n: whole(w).clone() for n, w in trainable(adapted).items()},
        "outputs": generate(base, adapted, prompts, 5, on_progress=lambda count, _: done.append(count)), "done": done,
        "read": evaluate_loss(base, adapted, ROWS, 4),
        "parts": sum(isinstance(weight, DTensor) for weight in adapted.parameters()),
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
    assert found[0]["done"][-1] == wanted["done"][-1] == len(ROWS)
    for one in found:
        same(one, wanted)
        for name, weight in one["weights"].items():
            assert torch.equal(weight, found[0]["weights"][name]), name


@pytest.mark.parametrize(
    "method",
    ["last_layers", "bias", "layer_norm", "ia3", "prompt_tuning", "prefix_tuning", "dora", "eva", "l2_sp", "wise_ft"],
)
def test_every_kind_of_method_trains_on_weights_that_are_shared_out(tiny_model, tmp_path, method):
    settings = {"method": method, **method_class(method).tiny}
    wanted = trained(tiny_model, settings)
    for found in together(tmp_path, 2, True, lambda team: trained(tiny_model, settings, team)):
        same(found, wanted)


def of_family(family, team=ALONE):
    """Return a family's tiny model, whose weights a team may share out."""
    base = family_base(family)
    return replace(base, team=team, own=WeakIdKeyDictionary(dict.fromkeys(base.model.parameters())))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_weights_that_are_shared_out(family, tmp_path):
    methods = ({"method": "lora", "r": 2}, {"method": "full"})
    wanted = [trained_on(of_family(family), settings) for settings in methods]
    for found in together(tmp_path, 2, True, lambda t: [trained_on(of_family(family, t), s) for s in methods]):
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
            assert one["parts"] > other["parts"] == 0


def test_a_base_that_skips_blocks_at_random_is_refused():
    model = family_base("opt").model
    model.config.layerdrop = 0.1
    with pytest.raises(SetupError, match=r"OPTForCausalLM skips blocks at random while it trains \(layerdrop\)"):
        stacks_of(model)


def test_a_process_that_had_no_row_to_read_before_a_step_takes_it_with_the_others(tiny_model, tmp_path):
    def work(team=ALONE):
        return trained(tiny_model, {"method": "lora"}, team, validation=1)

    for found in together(tmp_path, 2, True, work):
        same(found, work())


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
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
def one(tiny_config):
    """A bakeoff of one entry, the folder in which one process has carried it out, and the entry's run."""
    config = tiny_config | {
        "entries": {"lora": {"r": 4, "learning_rate": 0.01}}, "baselines": ["base"],
        "protocol": {**tiny_config["protocol"], "precision": "fp32"},
    }  # fmt: skip
    folder = bakeoff.run(config, display="none").folder
    return config, folder, next(run for run in folder.runs() if run.entry == "lora")


def test_a_run_of_two_processes_leaves_the_record_of_one(one):
    config, folder, run = one
    wanted, rows = folder.run(run.id).result(), folder.run(run.id).predictions()
    shutil.rmtree(folder.run(run.id).path)
    bakeoff.run(config | {"machine": {"shards": 2}}, display="none")
    found = folder.run(run.id).result()
    assert (found.status, found.shards, wanted.shards) == ("done", 2, 1)
    assert found.checks == wanted.checks
    assert found.metrics.keys() == wanted.metrics.keys()
    for name, value in wanted.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert [row.output for row in folder.run(run.id).predictions()] == [row.output for row in rows]


@pytest.mark.parametrize("within", [nullcontext, partial(one_line, "model: GPT2LMHeadModel: cannot be decoded")])
def test_a_process_that_is_killed_ends_the_run_with_its_name(one, monkeypatch, within):
    _, folder, run = one
    shutil.rmtree(folder.run(run.id).path)
    killed = kill_one(monkeypatch, folder, run, within)
    assert (killed.status, killed.cause) == ("failed", "ended")
    assert killed.error.startswith("the process of rank 1 ended with SIGKILL. Out of memory?")
    assert not torch.distributed.is_initialized()


def kill_one(monkeypatch, folder, run, within):
    """Return the record of a run whose second process is killed while the first one waits for it, `within` a check."""
    started = []

    def start(self, request):
        plain_start(self, request)
        started.append(self.process)

    def work_on(folder, run, left, emit, stop_requested, given):
        started[0].kill()
        with within():
            given.team.wait()

    plain_start = members.LocalProcess.__init__
    with monkeypatch.context() as patch:
        patch.setattr(members.LocalProcess, "__init__", start)
        patch.setattr("bakeoff.compute.run.worker.work_on", work_on)
        patch.setattr(members, "planned_config", lambda *_: SimpleNamespace(machine=MachineConfig(shards=2)))
        folder.run(run.id).path.mkdir(exist_ok=True)
        write_json(folder.run(run.id).run_file, asdict(run))
        execute(folder.path, run.id, "train", lambda event: None)
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    return folder.run(run.id).result()


# Memory runs out wherever more than `most` rows go through the model to be trained on; then a process is a member.
SHORT = """
import torch
from bakeoff.compute.training import loop
def short(base, adapted, batch, *rest, full=loop.target_losses):
    if len(batch.ids) > {most}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return full(base, adapted, batch, *rest)
loop.target_losses = short
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_in_one_process_ends_a_run_whose_weights_are_shared_out(one, monkeypatch, rank):
    record = short_of_memory(one, monkeypatch, rank, most=0, shard_weights=True)
    assert (record.status, record.cause) == ("failed", "memory")
    assert record.error.startswith("out of memory (CUDA out of memory. Tried to allocate 2.00 GiB). Try ")
    assert record.error.endswith(" (in the process of rank 1)") is (rank == 1)
    assert not torch.distributed.is_initialized()


def test_memory_that_runs_out_in_one_process_halves_the_parts_in_all_whose_weights_are_whole(one, monkeypatch):
    wanted = one[1].run(one[2].id).result()
    assert wanted.costs["micro_batch_size"] == 8
    record = short_of_memory(one, monkeypatch, rank=1, most=1, shard_weights=False)
    assert (record.status, record.costs["micro_batch_size"]) == ("done", 2)
    assert record.metrics == {name: pytest.approx(value, rel=1e-4, abs=1e-5) for name, value in wanted.metrics.items()}


def short_of_memory(one, monkeypatch, rank, most, shard_weights):
    """Return the record of a run of two processes, one of which is short of memory."""
    config, folder, run = one
    code = SHORT.format(most=most)
    if rank:
        main = f"{code}\nfrom bakeoff.compute.run.members import main; import os; os._exit(main())"
        monkeypatch.setattr(members, "child", lambda _: [sys.executable, "-c", main])
    else:
        monkeypatch.setattr(loop, "target_losses", loop.target_losses)  # restored at the end
        exec(code, {})
    shutil.rmtree(folder.run(run.id).path)
    bakeoff.run(config | {"machine": {"shards": 2, "shard_weights": shard_weights}}, display="none")
    return folder.run(run.id).result()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": {"precision": "fp16"}}, "machine.shards: with protocol.precision: fp16"),
        ({"protocol": {"compile_blocks": True}}, "machine.shards: blocks .* cannot be compiled"),
        ({"protocol": {"quantize": "nf4"}}, "machine.shards: weights that are packed in few bits"),
        ({"entries": {"qlora": {}}}, r"entries.qlora: its base is packed in few bits \(nf4\), which machine.shards"),
        ({"entries": {"full": {"optimizer": "adamw_8bit"}}}, "entries.full: optimizer: adamw_8bit cannot change weigh"),
        ({"protocol": {"precision": "bf16"}, "generation": {"precision": "fp32"}}, "generation.precision: fp32: weigh"),
        ({"machine": {"shards": 2, "device": "cuda:1"}}, "machine: shards: cuda:1 is one device"),
    ],
)
def test_a_plan_refuses_by_name_what_cannot_be_shared_out(tiny_config, changed, reason):
    config = tiny_config | {"machine": {"shards": 2}} | changed
    with pytest.raises(ConfigError, match=reason):
        make_plan(load_config(config))


def test_a_run_has_as_many_devices_as_share_it(monkeypatch):
    monkeypatch.setattr("bakeoff.driver.device.devices_of", lambda _: [f"cuda:{i}" for i in range(5)])
    assert places_of(MachineConfig(shards=2)) == ["cuda:0,cuda:1", "cuda:2,cuda:3"]
    assert hiding_others("cuda:2,cuda:3", {}) == ("cuda", {"CUDA_VISIBLE_DEVICES": "2,3"})
    with pytest.raises(ConfigError, match="6 devices are to share each run"):
        places_of(MachineConfig(shards=6))


def test_a_device_needs_its_part_of_the_blocks():
    counts = {"total_parameters": 100, "trainable_parameters": 100, "packed_parameters": 0, "packed_bytes": 0,
              "optimizer_bytes": 800, "block_parameters": 80, "trained_block_parameters": 80}  # fmt: skip
    assert sizes_of(dict(counts), 0, 4) == Sizes(40, 40, optimizer_bytes=320)
    assert sizes_of(dict(counts), 0) == Sizes(100, 100, optimizer_bytes=800)

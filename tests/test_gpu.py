"""What only a GPU can show; `pytest -m gpu` runs these tests. They were written on a machine without one."""

import pytest
import torch

import bakeoff
from bakeoff.compute.model.base import adapt, load_base
from bakeoff.compute.model.device import (
    CPU,
    choose,
    initialized,
    memory,
    peak_bytes,
    reset_peak,
    set_rounding,
    visible,
)
from bakeoff.compute.model.precision import native_precision
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.driver.device import survey
from bakeoff.methods import build_method

pytestmark = pytest.mark.gpu
ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]
METHODS = [{"method": "lora", "r": 2}, {"method": "prompt_tuning"}, {"method": "last_layers"}]


@pytest.fixture
def gpu():
    """The GPU."""
    found = choose("auto")
    if found.type == "cpu":
        pytest.skip("no GPU here")
    return found


def trainer_of(tiny_model, fields, precision, device, deterministic=False):
    protocol = ProtocolConfig(epochs=4, batch_size=6, deterministic=deterministic)
    set_rounding(protocol)
    base = load_base(str(tiny_model), precision, device=device)
    torch.manual_seed(0)
    method = build_method("x", {"learning_rate": 0.01, **fields})
    return Trainer(base, adapt(base, method), method, protocol, 0, lambda *_: None)


def test_a_whole_bakeoff_runs_on_it_in_processes_of_its_own(gpu, tiny_config, processes):
    survey.cache_clear()
    results = bakeoff.run(tiny_config, display="none")
    assert results.document.status == "done"
    assert results.document.environment["gpu"]
    for row in results.entries.values():
        assert {name for name, passed in row.checks.items() if not passed} <= {"step0_beats_unigram"}
        assert row.costs["peak_bytes"] > 0
    assert results.best().load().generate(["bab beb bib bob"])


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["method"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-4), ("bf16", 5e-2), ("fp16", 5e-2)])
def test_losses_and_training_are_near_those_of_a_cpu(gpu, tiny_model, fields, precision, tolerance):
    if precision == "bf16" and native_precision(gpu) != "bf16":
        pytest.skip("this GPU does not multiply bf16")
    here, there = trainer_of(tiny_model, fields, "fp32", CPU), trainer_of(tiny_model, fields, precision, gpu)
    there.scaler = torch.amp.GradScaler(gpu.type, init_scale=2.0**8, enabled=precision == "fp16")  # skips no step
    with torch.no_grad():
        for name, weight in there.weights.items():
            weight.copy_(here.weights[name])  # drawn elsewhere, or in another format, they differ
    found = []
    for trainer in (here, there):
        for module in trainer.adapted.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        before = mean_loss(evaluate_loss(trainer.base, trainer.adapted, ROWS, 6))
        found.append((before, trainer.train(ROWS, ROWS).validation_loss))
    assert found[1] == pytest.approx(found[0], rel=tolerance)


@pytest.mark.parametrize("shard_weights", [True, False])
def test_several_gpus_share_a_run(gpu, tiny_config, tmp_path, processes, shard_weights):
    if len(visible()) < 2:
        pytest.skip("one GPU here")
    survey.cache_clear()
    losses = []
    for machine in ({}, {"shards": 2, "shard_weights": shard_weights}):
        config = tiny_config | {
            "entries": {"lora": {"r": 4}},
            "machine": machine,
            "output": str(tmp_path / str(len(machine))),
        }
        row = bakeoff.run(config, display="none").entries["lora"]
        assert row.status == "done", row.error
        losses.append([row.metrics[f"{split}/loss"].mean for split in ("validation", "test")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_memory_is_counted_on_it(gpu):
    free, total = memory(gpu)
    assert 0 < free <= total
    reset_peak(gpu)
    before = peak_bytes(gpu)
    block = torch.zeros(2**24, device=gpu)
    assert peak_bytes(gpu) >= before + block.nbytes
    assert initialized()


def test_a_deterministic_training_resumes_bit_for_bit(gpu, tiny_model, tmp_path):
    try:
        straight = trainer_of(tiny_model, METHODS[0] | {"lora_dropout": 0.5}, "fp32", gpu, deterministic=True)
        straight.rungs = (3,)
        whole = straight.train(ROWS, ROWS)
        first = trainer_of(tiny_model, METHODS[0] | {"lora_dropout": 0.5}, "fp32", gpu, deterministic=True)
        first.rungs = (3,)
        first.train(ROWS, ROWS, 3)
        save_checkpoint(tmp_path, first, {})
        again = trainer_of(tiny_model, METHODS[0] | {"lora_dropout": 0.5}, "fp32", gpu, deterministic=True)
        torch.rand(5, device=gpu)
        load_newest(tmp_path, again)
        assert again.train(ROWS, ROWS) == whole
        for name, weight in straight.weights.items():
            assert torch.equal(again.weights[name], weight)
    finally:
        set_rounding(ProtocolConfig())

"""Training in fp16 with scaled gradients, as far as a CPU computes in it, and what is allowed to round otherwise."""

import math

import pytest
import torch

import bakeoff
from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.model.device import set_rounding
from bakeoff.compute.training.loop import DivergedError, Trainer
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.config.loading import load_config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.driver.plan import make_plan
from bakeoff.methods import build_method
from tests.test_checkpoint import ROWS

METHODS = [
    {"method": "lora", "r": 2, "learning_rate": 0.003},  # at 0.01 it overshoots, by how much each processor rounds
    {"method": "last_layers", "learning_rate": 0.003},
    {"method": "prompt_tuning", "num_virtual_tokens": 3},
    {"method": "adalora", "init_r": 3, "target_r": 1, "learning_rate": 0.01},
    {"method": "ia3", "learning_rate": 0.01},
]


def trainer_of(tiny_model, fields, precision, epochs=8):
    base = load_base(str(tiny_model), precision)
    torch.manual_seed(0)
    method = build_method("x", fields)
    protocol = ProtocolConfig(epochs=epochs, batch_size=6)
    return Trainer(base, adapt(base, method), method, protocol, 0, lambda *_: None)


def loss_of(trainer):
    return mean_loss(evaluate_loss(trainer.base, trainer.adapted, ROWS, 6))


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["method"])
def test_fp16_trains_as_fp32_does(tiny_model, fields):
    whole, half = (trainer_of(tiny_model, fields, precision) for precision in ("fp32", "fp16"))
    assert half.base.model.get_input_embeddings().weight.dtype == torch.float16
    assert {weight.dtype for weight in trainable(half.adapted).values()} == {torch.float32}
    before = loss_of(whole)
    with torch.no_grad():
        for name, weight in half.weights.items():
            weight.copy_(whole.weights[name])  # drawn in another format, they differ
    half.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)  # fits from the start: this base's gradients are large
    ended = []
    for trainer in (whole, half):
        torch.manual_seed(1)
        ended.append(trainer.train(ROWS, ROWS))
    learnt, learnt_in_half = (before - loss_of(trainer) for trainer in (whole, half))
    assert learnt > 0.02
    assert learnt_in_half == pytest.approx(learnt, rel=0.1)
    assert [trained.skipped for trained in ended] == [0, 0]


@pytest.mark.parametrize("name", ["lora", "adalora"])
def test_a_step_whose_gradients_leave_the_range_changes_nothing_and_is_counted(tiny_model, name):
    fields = next(fields for fields in METHODS if fields["method"] == name)
    trainer = trainer_of(tiny_model, fields, "fp16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = {n: w.detach().clone() for n, w in trainer.weights.items()}
    moved = []

    def look(trainer, _):
        moved.append(any(not torch.equal(before[n], w) for n, w in trainer.weights.items()))

    trainer.keep = look
    trained = trainer.train(ROWS, ROWS)
    assert trained.skipped == moved.count(False) > 0
    assert moved == sorted(moved)  # once the scale fits, no step is skipped
    assert math.isfinite(loss_of(trainer))
    assert all(t.isfinite().all() for t in trainer.method.state(trainer.adapted).values())


def test_gradients_that_are_never_finite_end_the_run_with_a_reason(tiny_model):
    trainer = trainer_of(tiny_model, METHODS[0], "fp16", epochs=20)
    weight = next(iter(trainer.weights.values()))
    weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError, match="not finite in fp16.* Try protocol.precision: fp32"):
        trainer.train(ROWS, ROWS)


def test_a_bakeoff_in_fp16_counts_its_skipped_steps_and_uses_the_planned_precision(tiny_config):
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}, "baselines": ["base"]}
    results = bakeoff.run(config, {"protocol.precision": "fp16"}, display="none")
    row = results.entries["lora"]
    assert results.document.precision == "fp16"
    assert 0 <= row.costs["skipped_steps"] < 10
    assert {name for name, passed in row.checks.items() if not passed} <= {
        "step0_beats_unigram",
        "few_steps_skipped",
    }
    assert "few_steps_skipped" in row.checks
    assert results.best().load().base.model.get_input_embeddings().weight.dtype == torch.float32  # decodes in it


def test_a_worker_takes_the_precision_of_the_plan(tiny_config, monkeypatch):
    from bakeoff.compute.model import device
    from bakeoff.compute.run.context import Work

    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}, "baselines": ["base"]}
    results = bakeoff.run(config, {"protocol.precision": "auto"}, display="none")
    planned = results.folder.plan().precision
    other = {"fp32": "bf16", "bf16": "fp32"}[planned]
    monkeypatch.setattr(device, "native_precision", lambda _: other)
    work = Work(results.folder, results.best().best_run(), lambda _: None, bool)
    assert work.load().precision == planned
    assert results.best().load().base.model.dtype == torch.float32


def test_rounding_is_the_protocols_and_sums_are_kept_in_fp32():
    matmul = torch.backends.cuda.matmul
    try:
        for protocol in (ProtocolConfig(tf32=True, deterministic=True), ProtocolConfig()):
            set_rounding(protocol)
            assert matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == protocol.tf32
            assert torch.are_deterministic_algorithms_enabled() == protocol.deterministic
            assert not matmul.allow_bf16_reduced_precision_reduction
            assert not matmul.allow_fp16_reduced_precision_reduction
    finally:
        set_rounding(ProtocolConfig())


def test_a_deterministic_bakeoff_runs_and_has_ids_of_its_own(tiny_config, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}, "baselines": ["base"]}
    plain = make_plan(load_config(config))
    try:
        results = bakeoff.run(config, {"protocol.deterministic": True}, display="none")
    finally:
        set_rounding(ProtocolConfig())
    assert results.document.status == "done"
    results.best().load()
    assert not torch.are_deterministic_algorithms_enabled()  # whoever generates decides that for their own process
    ids = {run.id for run in plain.runs}
    assert ids.isdisjoint(run.id for run in results.folder.plan().runs)
    assert ids == {run.id for run in make_plan(load_config(config, {"protocol.deterministic": False})).runs}

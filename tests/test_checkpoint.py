"""A training that stopped and went on is the training that never stopped."""

import pytest
import torch

from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method
from bakeoff.model import adapt, load_base, trainable
from bakeoff.sections import ProtocolConfig
from bakeoff.training.checkpoint import load_checkpoint, save_checkpoint
from bakeoff.training.loop import Trainer

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0], False) for i in range(11)]
LORA = {"method": "lora", "r": 2, "lora_dropout": 0.5, "learning_rate": 0.01}
METHODS = [LORA, {"method": "last_layers", "learning_rate": 0.01}, {"method": "prompt_tuning"}]
RUNGS = (4, 7)


def fresh(tiny_model, fields, curve, patience=None):
    base = load_base(str(tiny_model), "fp32")
    torch.manual_seed(3)
    method = build_method("x", fields)
    adapted = adapt(base, method)
    protocol = ProtocolConfig(epochs=5, batch_size=6, precision="fp32", patience=patience)

    def report(kind, values):
        if kind == "metrics":
            curve.append({k: v for k, v in values.items() if k != "seconds"})

    return Trainer(base, adapted, method, protocol, 3, report, rungs=RUNGS)


def weights(trainer):
    return {n: p.detach().clone() for n, p in trainable(trainer.adapted).items()}


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["method"])
def test_going_on_in_a_fresh_model_is_not_having_stopped(tiny_model, tmp_path, fields):
    straight_curve, curve = [], []
    straight = fresh(tiny_model, fields, straight_curve)
    whole = straight.train(ROWS, ROWS[:3])
    file = tmp_path / "run/checkpoint.safetensors"
    for until in (*RUNGS, None):
        trainer = fresh(tiny_model, fields, curve)
        if until != RUNGS[0]:
            torch.rand(5)  # whatever another process has drawn
            assert load_checkpoint(file, trainer) == {"rows": 7}
        parts = trainer.train(ROWS, ROWS[:3], until)
        assert parts.ended == (until is None)
        save_checkpoint(file, trainer, {"rows": 7})
    assert [row["step"] for row in curve] == [0, 2, 4, 6, 7, 8, 10]
    assert curve == straight_curve
    assert parts == whole
    for name, weight in weights(straight).items():
        assert torch.equal(weights(trainer)[name], weight)
    again = fresh(tiny_model, fields, curve)
    load_checkpoint(file, again)
    assert again.train(ROWS, ROWS[:3]) == whole
    assert len(curve) == 7
    for name, weight in weights(straight).items():
        assert torch.equal(weights(again)[name], weight)


def test_dropout_is_part_of_what_is_kept(tiny_model, tmp_path):
    curve, other = [], []
    trainer = fresh(tiny_model, LORA, curve)
    trainer.train(ROWS, ROWS[:3], 4)
    file = tmp_path / "c.safetensors"
    save_checkpoint(file, trainer, {})
    trainer.train(ROWS, ROWS[:3], 7)
    again = fresh(tiny_model, LORA, other)
    load_checkpoint(file, again)
    torch.manual_seed(99)  # other dropout masks from here on
    again.train(ROWS, ROWS[:3], 7)
    assert other[-1]["step"] == curve[-1]["step"] == 7
    assert other[-1]["validation/loss"] != curve[-1]["validation/loss"]


def test_an_ended_training_keeps_its_best_weights_only(tiny_model, tmp_path):
    from safetensors import safe_open

    trainer = fresh(tiny_model, LORA, [])
    trainer.train(ROWS, ROWS[:3])
    save_checkpoint(tmp_path / "c", trainer, {})
    with safe_open(tmp_path / "c", "pt") as stored:
        assert set(stored.keys()) == {f"best/{name}" for name in trainer.weights}
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_patience_ends_a_run_after_so_many_validations_without_a_new_best(tiny_model):
    curve = []
    wild = {"method": "last_layers", "learning_rate": 10.0}
    result = fresh(tiny_model, wild, curve, patience=2).train(ROWS, ROWS[:3])
    losses = [row["validation/loss"] for row in curve]
    best = losses.index(min(losses))
    assert result.ended
    assert len(losses) == best + 1 + 2 < 7
    assert result.steps == curve[-1]["step"] < 10
    assert result.best_step == curve[best]["step"]

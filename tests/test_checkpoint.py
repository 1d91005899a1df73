"""A training that stopped and went on is the training that never stopped."""

import hashlib
import json
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.training.checkpoint import CheckpointWriter, checkpoint_files, load_newest, save_checkpoint
from bakeoff.compute.training.loop import Trainer
from bakeoff.config.machine import SafetyConfig
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.interrupts import Stopped
from bakeoff.methods import build_method
from tests.conftest import many

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]
LORA = {"method": "lora", "r": 2, "lora_dropout": 0.5, "learning_rate": 0.01}
METHODS = [
    LORA,
    {"method": "last_layers", "learning_rate": 0.01},
    {"method": "prompt_tuning"},
    {"method": "adalora", "init_r": 3, "target_r": 1, "learning_rate": 0.01},
    {"method": "pissa", "r": 2, "learning_rate": 0.01},
]
RUNGS = (4, 7)


def fresh(tiny_model, fields, curve, patience=None, precision="fp32"):
    base = load_base(str(tiny_model), precision)
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


@pytest.mark.parametrize(
    ("fields", "precision"),
    [*((fields, "fp32") for fields in METHODS), (LORA, "fp16"), (METHODS[3], "fp16")],
    ids=lambda part: part if isinstance(part, str) else part["method"],
)
def test_going_on_in_a_fresh_model_is_not_having_stopped(tiny_model, tmp_path, monkeypatch, fields, precision):
    straight_curve, curve = [], []
    if precision == "fp16":  # some steps are skipped until the scale is small enough, and it grows again
        options = {"init_scale": 2.0**14, "growth_interval": 3}
        monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, **options))
    straight = fresh(tiny_model, fields, straight_curve, precision=precision)
    whole = straight.train(ROWS, ROWS[:3])
    assert whole.skipped == 0 if precision == "fp32" else 0 < whole.skipped < 9
    folder = tmp_path / "run/checkpoints"
    for until in (*RUNGS, None):
        trainer = fresh(tiny_model, fields, curve, precision=precision)
        if until != RUNGS[0]:
            torch.rand(5)  # whatever another process has drawn
            assert load_newest(folder, trainer) == {"rows": 7}
        parts = trainer.train(ROWS, ROWS[:3], until)
        assert parts.ended == (until is None)
        save_checkpoint(folder, trainer, {"rows": 7})
    assert [row["step"] for row in curve] == [0, 2, 4, 6, 7, 8, 10]
    assert curve == straight_curve
    assert parts == whole
    for name, weight in weights(straight).items():
        assert torch.equal(weights(trainer)[name], weight)
    again = fresh(tiny_model, fields, curve, precision=precision)
    load_newest(folder, again)
    assert again.train(ROWS, ROWS[:3]) == whole
    assert len(curve) == 7
    for name, weight in weights(straight).items():
        assert torch.equal(weights(again)[name], weight)


def test_dropout_is_part_of_what_is_kept(tiny_model, tmp_path):
    curve, other = [], []
    trainer = fresh(tiny_model, LORA, curve)
    trainer.train(ROWS, ROWS[:3], 4)
    save_checkpoint(tmp_path, trainer, {})
    trainer.train(ROWS, ROWS[:3], 7)
    again = fresh(tiny_model, LORA, other)
    load_newest(tmp_path, again)
    torch.manual_seed(99)  # other dropout masks from here on
    again.train(ROWS, ROWS[:3], 7)
    assert other[-1]["step"] == curve[-1]["step"] == 7
    assert other[-1]["validation/loss"] != curve[-1]["validation/loss"]


def test_an_ended_training_keeps_its_best_weights_only(tiny_model, tmp_path):
    trainer = fresh(tiny_model, LORA, [])
    trainer.train(ROWS, ROWS[:3])
    save_checkpoint(tmp_path, trainer, {})
    (file,) = tmp_path.iterdir()
    with safe_open(file, "pt") as stored:
        assert set(stored.keys()) == {f"best/{name}" for name in trainer.weights}


def keeper(folder, stop_requested=bool, **safety):
    return CheckpointWriter(folder, SafetyConfig(**safety), lambda _: {}, stop_requested)


def test_a_checkpoint_follows_every_validation_and_the_last_two_are_kept(tiny_model, tmp_path):
    trainer = fresh(tiny_model, LORA, [])
    trainer.keep = keeper(tmp_path).after_step
    trainer.train(ROWS, ROWS[:3], 7)
    assert [int(file.name.partition("-")[0]) for file in checkpoint_files(tmp_path)] == [7, 6]
    trainer.keep = keeper(tmp_path, checkpoint_seconds=1e-9).after_step  # and every so many seconds
    trainer.train(ROWS, ROWS[:3])
    assert [int(file.name.partition("-")[0]) for file in checkpoint_files(tmp_path)] == [9, 8]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_is_asked_to_stop_saves_within_an_epoch_too_and_goes_on_bit_for_bit(tiny_model, tmp_path, step):
    curve, straight_curve = [], []
    straight = fresh(tiny_model, LORA, straight_curve)
    whole = straight.train(ROWS, ROWS[:3])
    trainer = fresh(tiny_model, LORA, curve)
    trainer.keep = keeper(tmp_path, lambda: trainer.at.step == step).after_step
    with pytest.raises(Stopped):
        trainer.train(ROWS, ROWS[:3])
    again = fresh(tiny_model, LORA, curve)
    load_newest(tmp_path, again)
    assert again.at.step == step
    assert again.train(ROWS, ROWS[:3]) == whole
    assert curve == straight_curve
    for name, weight in weights(straight).items():
        assert torch.equal(weights(again)[name], weight)


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_taken(tiny_model, tmp_path):
    trainer = fresh(tiny_model, LORA, [])
    for until in (*RUNGS, None):
        trainer.train(ROWS, ROWS[:3], until)
        save_checkpoint(tmp_path, trainer, {"until": until})
    newest, older = checkpoint_files(tmp_path)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert load_newest(tmp_path, fresh(tiny_model, LORA, [])) == {"until": 7}
    older.write_bytes(older.read_bytes()[:-1])
    (tmp_path / ".123.tmp").touch()  # what a killed process was writing
    assert load_newest(tmp_path, fresh(tiny_model, LORA, [])) is None
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_two_checkpoints_there_are_none_and_training_goes_on(tiny_model, tmp_path, capsys):
    trainer = fresh(tiny_model, LORA, [])
    trainer.keep = keeper(tmp_path, checkpoint_budget=2000).after_step
    trainer.train(ROWS, ROWS[:3], 4)
    assert checkpoint_files(tmp_path) == []
    assert "no checkpoint at step 4: two checkpoints of" in capsys.readouterr().err


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


def written_as(folder, change, step=7):
    """Write the newest checkpoint again, changed, with a right sum: whole, but not of this training or version."""
    file = checkpoint_files(folder)[0]
    with safe_open(file, "pt") as stored:
        state = json.loads(stored.metadata()["state"])
    tensors = load_file(file)
    tensors, state = change(tensors, state) or (tensors, state)
    save_file(tensors, folder / "x", metadata={"state": state if isinstance(state, str) else json.dumps(state)})
    mark = hashlib.sha256((folder / "x").read_bytes()).hexdigest()
    file.unlink()
    (folder / "x").rename(folder / f"{step:09d}-{mark}.safetensors")


def without(part):
    return lambda tensors, state: ({n: t for n, t in tensors.items() if not n.startswith(part)}, state)


def beside(name, tensor):
    return lambda tensors, state: (tensors | {name: tensor}, state)


def told(**fields):
    return lambda tensors, state: (tensors, state | fields)


FOREIGN = {
    "other names": lambda tensors, state: ({n.replace("lora_A", "lora_Q"): t for n, t in tensors.items()}, state),
    "another shape": lambda tensors, state: ({n: t[None] if "lora_A" in n else t for n, t in tensors.items()}, state),
    "another precision": lambda tensors, state: (
        {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()},
        state,
    ),
    "no optimizer": without("optimizer:step"),
    "half an optimizer": without("optimizer:exp_avg_sq"),
    "another optimizer": beside("optimizer:momentum/x", torch.zeros(1)),
    "another generator": beside("random/cpu", torch.zeros(16, dtype=torch.uint8)),
    "no generator's state": beside("random/cpu", torch.full((5056,), 255, dtype=torch.uint8)),
    "a GPU's": beside("random/cuda", torch.zeros(16, dtype=torch.uint8)),
    "no random state": without("random"),
    "an ended one's weights": lambda tensors, state: (tensors, state | {"at": state["at"] | {"ended": True}}),
    "fewer counters": told(at={"step": 7}),
    "other counters": told(at={"step": 7, "momentum": 3}),
    "another step": lambda tensors, state: (tensors, state | {"at": state["at"] | {"step": 6}}),
    "no counters": told(at=None),
    "another training": told(extra={"until": "of another"}),
    "no state": lambda tensors, state: (tensors, "{"),
    "a list": lambda tensors, state: (tensors, "[]"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_whole_checkpoint_that_cannot_be_gone_on_from_is_passed_over(tiny_model, tmp_path, capsys, kind):
    trainer = fresh(tiny_model, LORA, [])
    for until in RUNGS:
        trainer.train(ROWS, ROWS[:3], until)
        save_checkpoint(tmp_path, trainer, {"until": until})
    written_as(tmp_path, FOREIGN[kind])
    again = fresh(tiny_model, LORA, [])
    before = weights(again)
    assert load_newest(tmp_path, again, lambda extra: extra["until"] in RUNGS) == {"until": 4}
    assert "not used (" in capsys.readouterr().err
    assert again.at.step == 4
    checkpoint_files(tmp_path)[1].unlink()
    alone = fresh(tiny_model, LORA, [])
    assert load_newest(tmp_path, alone, lambda extra: extra["until"] in RUNGS) is None
    assert (alone.at.step, alone.best, alone.optimizer.state) == (0, {}, {})
    for name, weight in weights(alone).items():
        assert torch.equal(weight, before[name])  # nothing of it was taken
    alone.keep = keeper(tmp_path).after_step
    alone.train(ROWS, ROWS[:3])  # and its own checkpoints find their place beside it
    assert [int(file.name.partition("-")[0]) for file in checkpoint_files(tmp_path)] == [8, 7]
    assert load_newest(tmp_path, fresh(tiny_model, LORA, [])) == {}
    checkpoint_files(tmp_path)[0].unlink()
    assert load_newest(tmp_path, fresh(tiny_model, LORA, [])) == {}  # the one before it is its own too


def test_a_checkpoint_of_another_method_is_passed_over(tiny_model, tmp_path):
    for fields in METHODS:
        trainer = fresh(tiny_model, fields, [])
        trainer.train(ROWS, ROWS[:3], 4)
        save_checkpoint(tmp_path / fields["method"], trainer, {})
    for fields in METHODS:
        for other in METHODS:
            found = load_newest(tmp_path / other["method"], fresh(tiny_model, fields, []))
            assert (found == {}) == (fields is other)


DAMAGE = ("flip", "cut", "grow", "empty", "none", "fill")


@given(place=st.floats(0, 1), kind=st.sampled_from(DAMAGE), newest=st.booleans())
@many(12)
def test_whatever_befalls_a_checkpoint_training_ends_the_same(tiny_model, tmp_path_factory, place, kind, newest):
    folder = tmp_path_factory.mktemp("checkpoints")
    trainer = fresh(tiny_model, LORA, [])
    for until in RUNGS:
        trainer.train(ROWS, ROWS[:3], until)
        save_checkpoint(folder, trainer, {})
    whole = trainer.train(ROWS, ROWS[:3])
    file = checkpoint_files(folder)[0 if newest else 1]
    content = bytearray(file.read_bytes())
    at = int(place * (len(content) - 1))
    content[at] ^= 1 + (kind == "fill") * 254
    damaged = {"cut": content[:at], "grow": content + b"\0" * at, "empty": b"", "fill": bytes(at) + content[at:]}
    file.write_bytes(damaged.get(kind, content))
    if kind == "none":
        file.unlink()
    again = fresh(tiny_model, LORA, [])
    load_newest(folder, again)
    assert again.at.step in ((0, 4) if newest else (7,))
    assert again.train(ROWS, ROWS[:3]) == whole
    for name, weight in weights(trainer).items():
        assert torch.equal(weights(again)[name], weight)

"""Other optimizers than AdamW: what they change and keep, that they learn and resume, and where they are refused."""

import importlib.util

import pytest
import torch

from bakeoff.compute.model.base import adapt
from bakeoff.compute.training.ahead import Ahead
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.gradient_reach import adapted_shape
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.optimizer_state import counters, kept_like, of
from bakeoff.compute.training.optimizers import matrices, optimizer_bytes, optimizer_of
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import build_method
from bakeoff.testing import ROWS, check_method, family_base, family_shape

PROTOCOL = ProtocolConfig(epochs=4, batch_size=2, precision="fp32")


def trainer(name, family="llama", **settings):
    base = family_base(family)
    torch.manual_seed(1)
    method = build_method("x", {"method": name, **{"optimizer": "muon"} | settings})
    return Trainer(base, adapt(base, method), method, PROTOCOL, 0, lambda *_: None)


def test_matrices_are_changed_by_muon_and_all_else_by_adamw():
    made = trainer("full")
    chosen = matrices(made.adapted)
    assert "model.layers.0.self_attn.q_proj.weight" in chosen
    assert not {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} & {*chosen}
    for name, weight in made.weights.items():
        assert isinstance(of(made.optimizer, weight), torch.optim.Muon) == (name in chosen)
    assert sum(len(group["params"]) for group in made.optimizer.param_groups) == len(made.weights)


def test_a_step_of_a_matrix_has_the_size_of_adamws():
    plain, muon = (
        build_method("x", {"method": "lora", "r": 4, "learning_rate": 0.01, "optimizer": o}) for o in ("adamw", "muon")
    )
    sizes = []
    for method in (plain, muon):
        base = family_base("llama")
        torch.manual_seed(1)
        made = Trainer(
            base, adapt(base, method), method, PROTOCOL.model_copy(update={"warmup_share": 0}), 0, lambda *_: None
        )
        before = {n: w.detach().clone() for n, w in made.weights.items() if "lora_B" in n}
        made.batches = Ahead(base, ROWS)
        made._step([0, 1, 2], [], 100)
        sizes.append(sum(float((made.weights[n] - w).detach().square().sum()) for n, w in before.items()) ** 0.5)
    assert 0.1 < sizes[1] / sizes[0] < 1


@pytest.mark.parametrize(
    ("family", "optimizer"), [("gpt2", "muon"), ("t5", "muon"), ("llama", "schedule_free"), ("t5", "adamw_8bit")]
)
def test_an_entry_with_another_optimizer_keeps_the_contract(family, optimizer):
    assert check_method("lora_plus", family, {"r": 4, "optimizer": optimizer, "learning_rate": 3e-3}) is None


def test_a_checkpoint_of_another_optimizer_is_not_resumed_from(tmp_path, capsys):
    first = trainer("lora", r=4)
    first.train(ROWS, ROWS, 2)
    save_checkpoint(tmp_path, first, {})
    other = trainer("lora", r=4, optimizer="adamw")
    assert load_newest(tmp_path, other) is None
    assert "its tensors differ" in capsys.readouterr().err
    same = trainer("lora", r=4)
    assert load_newest(tmp_path, same) == {}
    weight = same.weights["base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"]
    assert {*of(same.optimizer, weight).state[weight]} == {"momentum_buffer"}


LARGE = {"name": "prompt_tuning", "num_virtual_tokens": 300}  # 4,800 numbers, of which eight bits are kept


@pytest.mark.parametrize("optimizer", ["schedule_free", "adamw_8bit"])
def test_a_training_resumes_with_the_same_bits_after_any_step(optimizer, tmp_path):
    whole = trainer(**LARGE, optimizer=optimizer)
    whole.train(ROWS, ROWS)
    for steps in (1, 3):
        stopped, resumed = (trainer(**LARGE, optimizer=optimizer) for _ in range(2))
        stopped.train(ROWS, ROWS, steps)
        save_checkpoint(tmp_path / str(steps), stopped, {})
        assert load_newest(tmp_path / str(steps), resumed) == {}
        resumed.train(ROWS, ROWS)
        assert resumed.at.best_loss == whole.at.best_loss
        assert all(torch.equal(weight, whole.weights[name]) for name, weight in resumed.weights.items())


@pytest.mark.parametrize("name", ["prompt_tuning", "layer_norm", "ia3"])
def test_muon_is_refused_in_a_plan_where_no_matrix_is_trained(name):
    method = build_method(name, {"method": name, "optimizer": "muon"})
    with pytest.raises(SetupError, match=f"^{name}: optimizer: muon is for matrices, .*Try: optimizer: adamw"):
        adapted_shape(family_shape("llama"), method)


def test_adamw_alone_is_torchs_own():
    base = family_base("gpt2")
    method = build_method("x", {"method": "lora", "r": 4})
    assert type(optimizer_of(method, PROTOCOL, adapt(base, method))) is torch.optim.AdamW


def test_an_unknown_optimizer_is_explained():
    with pytest.raises(ConfigError, match=r"entries.x.optimizer: .*'adamw', 'muon', 'schedule_free' or 'adamw_8bit'"):
        build_method("x", {"method": "lora", "optimizer": "lion"})


def test_schedule_free_is_evaluated_at_the_average_of_its_steps_and_trained_on_where_it_was():
    made = trainer("lora", r=4, optimizer="schedule_free")
    made.train(ROWS, ROWS, 2)
    before = {name: weight.detach().clone() for name, weight in made.weights.items()}
    made._validate(ROWS, 1.0, None)
    assert all(torch.equal(weight, before[name]) for name, weight in made.weights.items())
    assert all(group["train_mode"] for group in made.optimizer.param_groups)
    name = next(name for name in before if "lora_B" in name)
    kept = made.optimizer.state[made.weights[name]]["z"]
    average = before[name] + (kept - before[name]) * (1 - 1 / 0.9)  # y = 0.1 z + 0.9 x
    assert torch.allclose(made.best[name], average, rtol=0, atol=1e-7)
    assert not torch.allclose(made.best[name], before[name], rtol=0, atol=1e-7)


def test_the_rate_of_schedule_free_stays_at_its_peak():
    found = {}
    for optimizer in ("adamw", "schedule_free"):
        made = trainer("lora", r=4, optimizer=optimizer)
        made.train(ROWS, ROWS)
        found[optimizer] = made.optimizer.param_groups[0]["lr"] / made.method.learning_rate
    assert found["adamw"] == pytest.approx(1 / made.at.step)
    assert found["schedule_free"] == 1


@pytest.mark.parametrize("broken", [[], [[1, 2]], [[1, 2, float("nan")]], [["1", 2, 3]], None])
def test_a_checkpoint_with_other_counts_of_schedule_free_is_not_resumed_from(broken, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bakeoff.compute.training.checkpoint.counters", lambda _: broken)
    stopped = trainer("lora", r=4, optimizer="schedule_free")
    stopped.train(ROWS, ROWS, 1)
    save_checkpoint(tmp_path, stopped, {})
    fresh = trainer("lora", r=4, optimizer="schedule_free")
    assert load_newest(tmp_path, fresh) is None
    assert "not used" in capsys.readouterr().err
    assert (fresh.at.step, counters(fresh.optimizer)[0][0]) == (0, 0)


def test_what_a_plan_counts_of_an_optimizer_is_what_it_keeps():
    for optimizer in ("adamw", "muon", "schedule_free", "adamw_8bit"):
        made = trainer(**({"name": "lora", "r": 4} if optimizer == "muon" else LARGE), optimizer=optimizer)
        planned = optimizer_bytes(made.method, adapted_shape(family_shape("llama"), made.method))
        made.train(ROWS, ROWS, 1)
        kept = [of(made.optimizer, weight).state[weight] for weight in made.weights.values()]
        tensors = [t for row in kept for key, t in row.items() if torch.is_tensor(t) and not key.startswith("qmap")]
        single = 4 * len(kept) if optimizer == "adamw_8bit" else 0  # its count of steps is no tensor
        assert planned == sum(t.numel() * t.element_size() for t in tensors) + single


def test_eight_bits_are_for_large_tensors_only():
    small, large = (kept_like("AdamW8bit", torch.zeros(n)) for n in (4095, 4097))
    assert (small["state1"].dtype, large["state1"].dtype) == (torch.float32, torch.uint8)
    assert len(large["absmax1"]) == 17


def test_a_method_that_changes_weights_after_a_step_is_refused_with_schedule_free():
    method = build_method("x", {"method": "adalora", "optimizer": "schedule_free", "init_r": 6, "target_r": 4})
    with pytest.raises(SetupError, match="adalora: optimizer: schedule_free ends with an average .*optimizer: adamw"):
        adapted_shape(family_shape("llama"), method)


@pytest.mark.parametrize(
    ("optimizer", "package", "extra"),
    [("schedule_free", "schedulefree", "schedule-free"), ("adamw_8bit", "bitsandbytes", "quantize")],
)
def test_what_is_not_installed_is_refused_in_a_plan(optimizer, package, extra, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "bakeoff.compute.training.optimizers.find_spec", lambda name: None if name == package else found(name)
    )
    method = build_method("x", {"method": "lora", "optimizer": optimizer, "r": 4})
    with pytest.raises(SetupError, match=rf"{optimizer} needs {package}. Try: pip install 'bakeoff\[{extra}\]'"):
        adapted_shape(family_shape("llama"), method)

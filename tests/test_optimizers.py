"""Muon for matrices beside AdamW: which weights it changes, that it learns and resumes, and where it is refused."""

import pytest
import torch

from bakeoff.compute.model.base import adapt
from bakeoff.compute.training.ahead import Ahead
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.gradient_reach import adapted_shape
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.optimizers import matrices, optimizer_of
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import build_method
from bakeoff.testing import ROWS, check_method, family_base, family_shape

PROTOCOL = ProtocolConfig(epochs=4, batch_size=2, precision="fp32")


def trainer(name, family="llama", **settings):
    base = family_base(family)
    torch.manual_seed(1)
    method = build_method("x", {"method": name, "optimizer": "muon", **settings})
    return Trainer(base, adapt(base, method), method, PROTOCOL, 0, lambda *_: None)


def test_matrices_are_changed_by_muon_and_all_else_by_adamw():
    made = trainer("full")
    chosen = matrices(made.adapted)
    assert "model.layers.0.self_attn.q_proj.weight" in chosen
    assert not {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} & {*chosen}
    for name, weight in made.weights.items():
        assert isinstance(made.optimizer.of(weight), torch.optim.Muon) == (name in chosen)
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


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_entry_with_muon_keeps_the_contract(family):
    assert check_method("lora_plus", family, {"r": 4, "optimizer": "muon", "learning_rate": 3e-3}) is None


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
    assert {*same.optimizer.state[weight]} == {"momentum_buffer"}


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
    with pytest.raises(ConfigError, match=r"entries.x.optimizer: .*'adamw' or 'muon'"):
        build_method("x", {"method": "lora", "optimizer": "lion"})

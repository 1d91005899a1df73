"""LoRA with ranks by gradient: who gets which rank, that the count stays, and that what was saved is plain LoRA."""

import json
from itertools import pairwise

import pytest
import torch

from bakeoff.compute.export.files import write_adapter, write_lora, write_model
from bakeoff.compute.export.low_rank import factors_of, snapshot
from bakeoff.compute.export.merging import merged
from bakeoff.compute.model.base import adapt, count_parameters
from bakeoff.compute.serving.engine import Engine, Request
from bakeoff.compute.training.loss import start
from bakeoff.errors import SetupError
from bakeoff.methods import build_method
from bakeoff.methods.gradient_ranks import allotted, importances, layers_of
from bakeoff.testing import ROWS, check_method, family_base
from tests.test_engine import ENDS, drain
from tests.test_export_methods import TOKENS, Made


def started(family="llama", quantize="none", **settings):
    method = build_method("x", {"method": "gradient_ranks", "r": 4, **settings})
    base = family_base(family, quantize)
    torch.manual_seed(0)
    adapted = adapt(base, method)
    start(base, adapted, method, ROWS, len(ROWS))
    return method, base, adapted


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_importance_is_that_of_the_weights_own_gradient(family):
    method = build_method("x", {"method": "gradient_ranks", "r": 4})
    base = family_base(family)
    adapted = adapt(base, method)
    layers = layers_of(adapted)

    def loss(model, members):
        ids = torch.tensor([ROWS[i].prompt + ROWS[i].target for i in members])
        return model(input_ids=ids, labels=ids).loss

    found = importances(adapted, layers, [[0], [2]], loss)
    wanted = torch.zeros(len(layers))
    weights = [layer.get_base_layer().weight.requires_grad_() for layer in layers.values()]
    for members in ([0], [2]):
        gradients = torch.autograd.grad(loss(adapted, members), weights)
        wanted += torch.stack([(w * g).abs().mean() for w, g in zip(weights, gradients, strict=True)]).detach()
    assert found == pytest.approx(wanted.tolist(), rel=1e-4)
    assert all(p.grad is None for p in adapted.parameters())


@pytest.mark.parametrize("seed", range(20))
def test_ranks_have_the_numbers_of_equal_ones_and_follow_importance(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(64, 64), (64, 64), (64, 16), (64, 16), (64, 176), (176, 64)] * 4
    importance = (torch.rand(len(sizes), generator=generator) ** 3).tolist()
    ranks = allotted(importance, sizes, 8)
    assert sum(rank * sum(size) for rank, size in zip(ranks, sizes, strict=True)) == 8 * sum(map(sum, sizes))
    assert min(ranks) >= 4
    assert all(rank <= min(32, *size) for rank, size in zip(ranks, sizes, strict=True))
    assert len(set(ranks)) > 2
    for kind in {*sizes}:
        order = sorted(
            (weight, rank) for weight, rank, size in zip(importance, ranks, sizes, strict=True) if size == kind
        )
        assert all(less[1] <= more[1] for less, more in pairwise(order))


@pytest.mark.parametrize("importance", [[0.0, 0.0], [float("nan"), 1.0], [1.0, 1.0]])
def test_without_a_difference_ranks_are_equal(importance):
    assert allotted(importance, [(64, 64), (64, 64)], 8) == [8, 8]


def test_a_rank_above_a_side_of_a_weight_may_shrink_and_not_grow():
    ranks = allotted([9.0, 1.0, 1.0], [(64, 6), (64, 6), (64, 64)], 8)
    assert max(ranks[:2]) <= 8


def test_a_start_is_the_same_again_whatever_the_seed_and_keeps_the_count_and_the_scale():
    method, base, adapted = started()
    plain = adapt(family_base("llama"), build_method("y", {"method": "lora", "r": 4}))
    assert count_parameters(adapted) == count_parameters(plain)
    config = adapted.peft_config["default"]
    assert len({*config.rank_pattern.values()}) > 1
    torch.manual_seed(7)
    again = adapt(family_base("llama"), method)
    start(base, again, method, ROWS, len(ROWS))
    assert again.peft_config["default"].rank_pattern == config.rank_pattern
    for name, layer in layers_of(adapted).items():
        assert layer.r["default"] == len(layer.lora_A["default"].weight) == config.rank_pattern[name]
        assert layer.scaling["default"] == pytest.approx(method.lora_alpha / method.r)
        assert layer.lora_A["default"].weight.requires_grad


def test_a_base_in_few_bits_has_ranks_by_gradient_too():
    _, _, adapted = started("qwen2", "nf4")
    assert len({*adapted.peft_config["default"].rank_pattern.values()}) > 1


@pytest.mark.parametrize(
    "broken",
    [None, {"a": 4}, "more", 0, 17, "4", True],
    ids=["none", "foreign", "more", "zero", "large", "text", "bool"],
)
def test_other_ranks_in_an_adapters_config_are_one_line(broken, tmp_path):
    method, base, adapted = started()
    method.save(adapted, tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    first = next(iter(config["rank_pattern"]))
    if broken == "more":
        config["rank_pattern"][first] += 1  # another shape than the file's
    elif broken is None or isinstance(broken, dict):
        config["rank_pattern"] = broken
    else:
        config["rank_pattern"][first] = broken
    file.write_text(json.dumps(config))
    with pytest.raises(SetupError, match="adapter_(config.json: (rank|alpha)_pattern|model.safetensors: )") as caught:
        method.load(family_base("llama").model, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_the_contract_is_kept(family):
    assert check_method("gradient_ranks", family) is None


class Exported(Made):
    """Its adapter has the ranks that gradients gave it."""

    def adapt(self, base):
        adapted = adapt(base, self.cell.method)
        start(base, adapted, self.cell.method, ROWS, len(ROWS))
        assert len({*adapted.peft_config["default"].rank_pattern.values()}) > 1
        return adapted


def test_an_export_gives_the_same_merged_in_plain_peft_and_as_a_lora_of_one_rank(tmp_path):
    one = Exported("gradient_ranks", "llama", tmp_path)
    base = one.base()
    write_model(one, base, merged(base, one.adapted(base)), None, tmp_path / "whole")
    one.gives_the_same("merged", tmp_path / "whole")
    write_adapter(one, one.base(), tmp_path / "peft")
    one.gives_the_same("peft", tmp_path / "peft")
    base = one.base()
    before = snapshot(base.model)
    factors = factors_of(before, merged(base, one.adapted(base)), 64, "gradient_ranks")
    write_lora(one, one.base(), factors, tmp_path / "lora")
    one.gives_the_same("lora", tmp_path / "lora")


def test_served_rows_are_what_evaluation_writes(tmp_path):
    one = Exported("gradient_ranks", "llama", tmp_path)
    manifest = {
        "method": "gradient_ranks",
        "settings": one.cell.method.model_dump(),
        "quantize": "none",
        "model": "base",
    }
    (one.adapter / "bakeoff.json").write_text(json.dumps(manifest))
    engine = Engine(family_base("llama"), max_rows=4, chunk_tokens=16)
    engine.load("a", one.adapter)
    assert engine.entries["a"].lane is engine.lanes.shared
    rows = [engine.submit("a", Request(list(row.prompt), TOKENS, ENDS)) for row in ROWS]
    written = drain(engine)
    assert [written.get(row, []) for row in rows] == one.outputs

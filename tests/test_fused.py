"""The faster forms of a base's parts give what the plain ones give."""

import copy
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model import kernels
from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.loss import batch_of, target_losses
from bakeoff.methods import build_method
from bakeoff.testing import ROWS, family_base


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 16), (2, 3, 16)])
def test_a_wide_head_is_the_plain_one(bias, shape, monkeypatch):
    monkeypatch.setattr(kernels, "PART_COLUMNS", 10)
    torch.manual_seed(0)
    plain = nn.Linear(16, 37, bias=bias)
    wide = kernels.WideLinear.of(copy.deepcopy(plain))
    results = []
    for head in (plain, wide):
        given = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        out = head(given)
        (out.sin().sum() + out.square().mean()).backward()
        results.append([out, given.grad, head.weight.grad, *([head.bias.grad] if bias else [])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_ties_stay(monkeypatch):
    monkeypatch.setattr(kernels, "PART_COLUMNS", 8)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=8))
    names = set(model.state_dict())
    ids = torch.arange(6)[None]
    before = model.eval()(ids).logits
    kernels.fuse(model, torch.device("cpu"))
    assert type(model.lm_head) is kernels.WideLinear
    assert model.lm_head.weight is model.transformer.wte.weight
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-6)
    model.requires_grad_(False)
    given = torch.randn(3, 16, requires_grad=True)
    model.lm_head(given).sum().backward()
    assert model.lm_head.weight.grad is None
    torch.testing.assert_close(given.grad, model.lm_head.weight.sum(0).expand(3, 16), rtol=1e-5, atol=1e-5)


GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "granite")


@pytest.fixture
def on_gpu(monkeypatch):
    """Return a function that makes a model's attention what it is on a GPU that multiplies this natively."""
    own = AttentionInterface._global_mapping

    def pretend(model, native):
        monkeypatch.setitem(own, "sdpa", own["sdpa"])  # put back after the test
        monkeypatch.setattr(kernels, "native_precision", lambda _: native)
        kernels.fuse(model, torch.device("cuda"))

    return pretend


@pytest.mark.parametrize("family", GROUPED)
@pytest.mark.parametrize(("precision", "native"), [("fp32", "bf16"), ("bf16", "bf16"), ("bf16", "fp32")])
def test_shared_keys_and_values_are_grouped_by_torch_where_a_gpu_has_flash_attention(
    family, precision, native, monkeypatch, on_gpu
):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    given, attend = [], nn.functional.scaled_dot_product_attention

    def watched(*args, enable_gqa=False, **options):
        given.append(enable_gqa)
        return attend(*args, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    found, flash = [], precision == native == "bf16"
    for pretended in (False, True):
        base = family_base(family)
        base.model.to(dtype)
        if pretended:
            on_gpu(base.model, native)
        given.clear()
        ids = torch.arange(9, 15)[None]  # not longer than the families' sliding windows
        inputs = base.model.get_input_embeddings()(ids).detach().requires_grad_()
        whole = base.model(inputs_embeds=inputs, use_cache=True)
        whole.logits.float().square().mean().backward()
        single = base.model(input_ids=ids[:, -1:], past_key_values=whole.past_key_values).logits
        found.append((whole.logits, inputs.grad, single))
        assert any(given) == (flash or not pretended)
    for ours, theirs in zip(*found, strict=True):
        near = {"rtol": 1e-5, "atol": 1e-6} if precision == "fp32" else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(ours, theirs, **near)
        assert not flash or torch.equal(ours, theirs)


@pytest.mark.parametrize("lower", [False, True])
def test_weights_in_fp32_are_attended_to_in_the_precision_of_autocast(lower, on_gpu, monkeypatch):
    apart = []
    monkeypatch.setattr(kernels, "attend_apart", lambda *given, **_: apart.append(1) or sdpa_attention_forward(*given))
    base = family_base("llama")
    on_gpu(base.model, "bf16")
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        base.model(input_ids=torch.arange(9, 15)[None])
    assert bool(apart) == (not lower)


@pytest.mark.parametrize(("native", "name"), [("bf16", "attend_in_fp32"), ("fp32", "attend_apart")])
def test_a_base_keeps_the_name_of_its_attention_on_a_gpu(native, name, on_gpu):
    plain, prompts = family_base("llama"), [[9, 10, 11, 12], [30, 31, 32, 33, 34, 35, 36], [7]]
    expected = generate(plain, plain.model, prompts, 8, 1)
    on_gpu(family_base("gpt2").model, native)
    assert AttentionInterface._global_mapping["sdpa"] is sdpa_attention_forward
    base = family_base("llama")
    on_gpu(base.model, native)
    assert base.model.config._attn_implementation == "sdpa"  # by which some architectures make their masks
    assert AttentionInterface._global_mapping["sdpa"] is getattr(kernels, name)
    assert generate(base, base.model, prompts, 8, 3) == expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "t5", "bart"])
@pytest.mark.parametrize(
    "method",
    [{"method": "lora", "r": 4}, {"method": "lora_plus", "r": 4}, {"method": "adalora", "init_r": 6, "target_r": 4}],
)
def test_lora_without_the_casts_of_peft_has_the_same_bits(family, method):
    found = []
    for casts in (True, False):
        base = family_base(family)
        base.model.bfloat16()
        torch.manual_seed(0)
        adapted = adapt(replace(base, precision="bf16"), build_method("x", method))
        layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
        assert not any(layer.cast_input_dtype_enabled for layer in layers)
        for layer in layers:
            layer.cast_input_dtype_enabled = casts
        weights = trainable(adapted)
        with torch.no_grad():
            for weight in weights.values():
                weight.add_(0.05 * torch.randn_like(weight))
        losses = target_losses(replace(base, precision="bf16"), adapted, batch_of(base, ROWS))
        losses.mean().backward()
        found.append([losses, *(weight.grad for weight in weights.values())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("fields", [{"method": "lora", "r": 4, "lora_dropout": 0.1}, {"method": "dora", "r": 4}])
def test_what_is_computed_from_casts_keeps_them(fields):
    adapted = adapt(family_base("llama"), build_method("x", fields))
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert all(layer.cast_input_dtype_enabled for layer in layers)

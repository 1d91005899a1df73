"""The faster forms of a base's parts give what the plain ones give."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from bakeoff.compute.model import kernels


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

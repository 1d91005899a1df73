"""The training loop's ways of saving memory change no number."""

import pytest
import torch

from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.training import loop, loss
from bakeoff.compute.training.loop import Trainer
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]
METHOD = {"method": "lora", "r": 2, "target_modules": ["c_attn"]}


def trained(tiny_model, checkpointing=False):
    base = load_base(str(tiny_model), "fp32")
    torch.manual_seed(0)
    method = build_method("x", METHOD)
    adapted = adapt(base, method, checkpointing)
    protocol = ProtocolConfig(epochs=2, batch_size=8, precision="fp32")
    trainer = Trainer(base, adapted, method, protocol, 0, lambda kind, values: None)
    result = trainer.train(ROWS, ROWS[:3])
    return result, {n: p.detach().clone() for n, p in trainable(adapted).items()}


def test_parts_of_a_batch_add_up_to_the_batch(tiny_model, monkeypatch):
    whole, weights = trained(tiny_model)
    plain = loop.target_losses

    def short_of_memory(base, adapted, batch, context):
        if len(batch.counts) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return plain(base, adapted, batch, context)

    monkeypatch.setattr(loop, "target_losses", short_of_memory)
    parts, same = trained(tiny_model)
    assert (whole.micro_batch, parts.micro_batch) == (8, 2)
    assert parts.tokens == whole.tokens == 2 * sum(len(row) - 1 for row in ROWS)
    assert parts.validation_loss == pytest.approx(whole.validation_loss, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=1e-3, atol=1e-5)


def test_parts_that_stay_in_the_cache_change_no_number(tiny_model, monkeypatch):
    whole, weights = trained(tiny_model)
    seen = []
    plain = loop.target_losses

    def counted(base, adapted, batch, context):
        seen.append(len(batch.counts))
        return plain(base, adapted, batch, context)

    monkeypatch.setattr(loop, "target_losses", counted)
    monkeypatch.setattr(loss, "PART_ELEMENTS", 16 * 40)  # the tiny model's width, 40 positions
    small, same = trained(tiny_model)
    assert max(seen) < 8
    assert small.micro_batch == whole.micro_batch
    assert small.validation_loss == pytest.approx(whole.validation_loss, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=1e-3, atol=1e-5)


def test_the_rate_that_the_optimizer_is_built_with_is_the_one_that_it_steps_with(tiny_model, monkeypatch):
    plain = torch.optim.AdamW
    _, usual = trained(tiny_model)
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, lr, **rest: plain(groups, lr=2 * lr, **rest))
    _, handed = trained(tiny_model)
    monkeypatch.setattr(torch.optim, "AdamW", plain)
    monkeypatch.setitem(METHOD, "learning_rate", 2 * build_method("x", METHOD).learning_rate)
    _, twice = trained(tiny_model)
    assert all(torch.equal(handed[name], weight) for name, weight in twice.items())
    assert not all(torch.equal(handed[name], weight) for name, weight in usual.items())


def test_other_errors_and_single_examples_are_not_tried_again(tiny_model, monkeypatch):
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("can't allocate memory" if len(calls) > 1 else "shapes differ")

    monkeypatch.setattr(loop, "target_losses", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        trained(tiny_model)
    with pytest.raises(RuntimeError, match="allocate"):
        trained(tiny_model)
    assert len(calls) == 1 + 4  # parts of 8, 4, 2, 1


def test_gradient_checkpointing_recomputes_and_changes_nothing(tiny_model, monkeypatch):
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    counted = []
    forward = GPT2MLP.forward
    monkeypatch.setattr(GPT2MLP, "forward", lambda self, x: (counted.append(1), forward(self, x))[1])
    plain, weights = trained(tiny_model)
    calls = len(counted)
    counted.clear()
    saved, same = trained(tiny_model, checkpointing=True)
    steps, blocks = 4, 2
    assert len(counted) == calls + steps * blocks
    assert saved.validation_loss == pytest.approx(plain.validation_loss, rel=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight)

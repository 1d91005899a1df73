"""Linear twins of GPT-2's layers: the same function, nothing of the base changed, and no way back but by merging."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from bakeoff.compute.export.make import make
from bakeoff.compute.model.base import adapt
from bakeoff.compute.training.loss import evaluate_loss
from bakeoff.errors import SetupError
from bakeoff.methods import build_method
from bakeoff.methods.twins import has_twins, with_twins, without_twins
from bakeoff.testing import ROWS, family_base


def test_a_model_with_twins_has_the_same_losses_and_memory():
    base = family_base("gpt2")
    weights = {name: p.data_ptr() for name, p in base.model.named_parameters()}
    losses = evaluate_loss(base, base.model, ROWS, len(ROWS))
    assert has_twins(with_twins(base.model))
    assert evaluate_loss(base, base.model, ROWS, len(ROWS)) == losses
    assert {name: p.data_ptr() for name, p in base.model.named_parameters()} == weights
    without_twins(base.model)
    assert evaluate_loss(base, base.model, ROWS, len(ROWS)) == losses
    assert sum(isinstance(m, Conv1D) for m in base.model.modules()) == 12
    assert not has_twins(base.model)


def test_a_model_without_transposed_weights_stays_as_it_is():
    model = family_base("llama").model
    modules = [*model.modules()]
    assert [*with_twins(model).modules()] == modules


def test_an_adapter_on_twins_is_not_exported_for_plain_peft(monkeypatch):
    class Source:
        def __init__(self, *_):
            self.run = type("Run", (), {"method": "oft"})

        def base(self):
            return family_base("gpt2")

        def adapted(self, base):
            return adapt(base, build_method("x", {"method": "oft", "oft_block_size": 4}))

    monkeypatch.setattr("bakeoff.compute.export.make.Source", Source)
    monkeypatch.setattr("bakeoff.compute.export.make.Folder", str)
    with pytest.raises(SetupError, match="--to peft: oft: PEFT has it for linear layers only.* Try: --to merged"):
        make("folder", "run", "peft", "nowhere")


def test_twins_train_in_fp32_over_a_base_in_bf16():
    base = family_base("gpt2")
    base.model.to(torch.bfloat16)
    adapted = adapt(base, build_method("x", {"method": "oft", "oft_block_size": 4}))
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}

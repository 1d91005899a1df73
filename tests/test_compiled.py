"""Blocks that are compiled for training: the same losses and weights, and nothing of it stays."""

import pytest
import torch

import bakeoff
from bakeoff.compute.model.base import adapt, inner
from bakeoff.compute.training import compiled
from bakeoff.compute.training.compiled import compiled_blocks
from bakeoff.compute.training.loop import Trainer
from bakeoff.config.loading import load_config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.driver.plan import make_plan
from bakeoff.methods import build_method
from bakeoff.methods.last_layers import find_blocks
from bakeoff.testing.families import ROWS, family_base


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch):
    """Trace and differentiate blocks as the compiler does, but make no kernels, which takes a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    yield
    torch.compiler.reset()


def trained(wanted):
    """Return what a training ends with, the trained weights, and how many blocks were compiled within it."""
    base, method = family_base("llama"), build_method("x", {"method": "lora", "r": 2, "learning_rate": 0.01})
    torch.manual_seed(0)
    adapted = adapt(base, method)
    trainer = Trainer(base, adapted, method, ProtocolConfig(epochs=2, batch_size=2), 0, lambda *_: None)
    blocks = find_blocks(inner(adapted))[0]
    with compiled_blocks(adapted, wanted):
        count = sum(block._compiled_call_impl is not None for block in blocks)
        result = trainer.train(ROWS, ROWS)
    assert all(block._compiled_call_impl is None for block in blocks)
    return result, trainer.weights, count


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch hides it, but not where it is an error
def test_a_training_with_compiled_blocks_is_the_one_without():
    ours, weights, count = trained(wanted=True)
    plain, others, none = trained(wanted=False)
    assert (count, none) == (3, 0)
    assert ours.validation_loss == pytest.approx(plain.validation_loss, rel=1e-5)
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=1e-4)


def test_a_bakeoff_with_compiled_blocks_has_ids_of_its_own_and_passes_its_checks(tiny_config, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **how: seen.append(how))
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}}
    results = bakeoff.run(config, {"protocol.compile_blocks": True}, display="none")
    assert results.entries["lora"].status == "done"
    assert seen == [{"dynamic": True, "backend": "aot_eager"}] * 2
    ids = {run.id for run in make_plan(load_config(config)).runs if run.kind == "entry"}
    assert ids.isdisjoint(run.id for run in results.folder.plan().runs)

"""Blocks that are compiled for training alone; `gpu_check.py compiled_blocks` has inductor compile them."""

import pytest
import torch

import bakeoff
from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training import compiled
from bakeoff.compute.training.compiled import compiled_blocks
from bakeoff.config.loading import load_config
from bakeoff.driver.plan import make_plan
from bakeoff.errors import SetupError
from bakeoff.methods import build_method
from bakeoff.methods.last_layers import find_blocks
from bakeoff.testing.families import family_base


@pytest.fixture
def seen(monkeypatch):
    """How blocks were compiled; none is, which would take a minute."""
    how = []

    def compile_block(block, **options):
        how.append(options)
        block._compiled_call_impl = block._call_impl

    monkeypatch.setattr(torch.nn.Module, "compile", compile_block)
    return how


def test_blocks_are_compiled_only_meanwhile(base, seen):
    blocks = find_blocks(base.model)[0]
    with compiled_blocks(base.model, wanted=False):
        assert seen == []
    with compiled_blocks(base.model, wanted=True):
        assert all(block._compiled_call_impl for block in blocks)
    assert not any(block._compiled_call_impl for block in blocks)
    assert seen == [{"dynamic": True, "backend": "inductor"}] * 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own look at inputs
def test_compiled_blocks_compute_the_same_losses_and_gradients_at_all_lengths(monkeypatch):
    # aot_eager traces and splits what inductor would then make kernels of.
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    adapted = adapt(family_base("gpt2"), build_method("lora", {"method": "lora"}))
    torch.manual_seed(0)
    for weight in trainable(adapted).values():
        weight.data.add_(0.02 * torch.randn_like(weight))

    def step(ids):
        adapted.zero_grad()
        logits = adapted(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        return [loss.detach(), *(weight.grad for weight in trainable(adapted).values())]

    batches = [torch.randint(0, 50, (2, length)) for length in (9, 14)]
    plain = [step(ids) for ids in batches]
    with compiled_blocks(adapted, wanted=True):
        found = [step(ids) for ids in batches]
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_model_whose_blocks_are_not_found_stays_as_it_is(base, seen, monkeypatch):
    def find_blocks(_):
        raise SetupError("none")

    monkeypatch.setattr(compiled, "find_blocks", find_blocks)
    with compiled_blocks(base.model, wanted=True):
        assert seen == []


def test_a_bakeoff_with_compiled_blocks_has_ids_of_its_own_and_passes_its_checks(tiny_config, seen):
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}}
    results = bakeoff.run(config, {"protocol.compile_blocks": True}, display="none")
    assert results.entries["lora"].status == "done"
    assert len(seen) == 2
    ids = {run.id for run in make_plan(load_config(config)).runs if run.kind == "entry"}
    assert ids.isdisjoint(run.id for run in results.folder.plan().runs)

"""Blocks that are compiled for training alone; `gpu_check.py compiled_blocks` compares what they compute."""

import pytest
import torch

import bakeoff
from bakeoff.compute.training import compiled
from bakeoff.compute.training.compiled import compiled_blocks
from bakeoff.config.loading import load_config
from bakeoff.driver.plan import make_plan
from bakeoff.errors import SetupError
from bakeoff.methods.last_layers import find_blocks


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

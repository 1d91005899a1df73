"""The output head is called alone for parts of the logits, where nothing stands between it and them."""

from dataclasses import replace

import pytest
import torch

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.model import forward
from bakeoff.compute.training.loss import batch_of, target_losses
from bakeoff.methods.last_layers import find_blocks
from bakeoff.testing import FAMILIES, ROWS, family_base
from bakeoff.testing.families import VOCABULARY

FOLLOWED = {"gemma2", "granite"}  # by a cap, by a scale


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_is_tried_for_what_follows_its_head(family):
    base = replace(family_base(family), head_alone=False)
    assert conforming(base)[0].head_alone == (family not in FOLLOWED)


@pytest.mark.parametrize("family", ["gemma3", "gemma2"])
def test_parts_of_the_logits_call_the_model_once_where_the_head_is_alone(family, monkeypatch):
    base = family_base(family)
    batch = batch_of(base, ROWS)
    whole = target_losses(base, base.model, batch)
    calls = []
    find_blocks(base.model)[0][0].register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(forward, "LOGITS_BYTES", 5 * 4 * VOCABULARY)  # 5 of 12 targets: three parts
    torch.testing.assert_close(target_losses(base, base.model, batch), whole)
    assert len(calls) == (1 if base.head_alone else 4)

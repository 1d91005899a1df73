"""What a step multiplies, counted from shapes, is what torch counts of its matrix products."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bakeoff.compute.model.base import adapt
from bakeoff.compute.training.batches import collate
from bakeoff.compute.training.flops import forward_products, step_products, trunk_products
from bakeoff.compute.training.loss import target_losses
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method

PROMPT, TARGET = 40, 8
PROTOCOL = ProtocolConfig()
METHODS = {
    "lora": {"method": "lora", "r": 2},
    "last_layers": {"method": "last_layers", "blocks": 1},
    "full": {"method": "full"},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 10},
}


def counted(base, adapted, backward):
    """Return the products of an example's forward pass, or of a step; attention's own are other operations."""
    batch = collate([Tokens(list(range(PROMPT)), list(range(TARGET)))], 0)
    with FlopCounterMode(display=False) as counter:
        loss = target_losses(base, adapted, batch).mean()
        if backward:
            loss.backward()
    names = (torch.ops.aten.mm, torch.ops.aten.addmm)
    return sum(n for operation, n in counter.get_flop_counts()["Global"].items() if operation in names) / 2


def summed(each):
    return PROMPT * each["prompt"] + TARGET * each["target"] + each["example"]


def test_a_forward_pass(base):
    assert summed(forward_products(base.model)) == pytest.approx(counted(base, base.model, False), rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_a_step(base, name):
    method = build_method(name, METHODS[name])
    adapted = adapt(base, method).eval()
    uncached = ProtocolConfig(trunk_cache="off")
    assert summed(step_products(adapted, method, uncached)) == pytest.approx(counted(base, adapted, True), rel=0.1)
    assert trunk_products(adapted, method, uncached)["prompt"] == 0
    stored = summed(trunk_products(adapted, method, PROTOCOL))
    spared = summed(step_products(adapted, method, uncached)) - summed(step_products(adapted, method, PROTOCOL))
    assert spared == stored
    assert (stored > 0) == (name == "last_layers")

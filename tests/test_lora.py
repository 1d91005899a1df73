"""What the relatives of LoRA promise beside the contract."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, start
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.methods import build_method, lora_starts, method_class
from bakeoff.testing import ROWS


def adapted_by(name, base):
    method = build_method(name, {"method": name, **method_class(name).tiny})
    torch.manual_seed(1)
    return method, adapt(base, method)


def test_lora_plus_has_a_rate_for_each_factor(base):
    method, adapted = adapted_by("lora_plus", base)
    trainer = Trainer(base, adapted, method, ProtocolConfig(epochs=1, batch_size=2), 0, lambda *_: None)
    trainer.train(ROWS, ROWS)
    first, second = trainer.optimizer.param_groups
    assert second["lr"] == 16 * first["lr"]
    assert {id(p) for p in second["params"]} == {id(p) for n, p in trainable(adapted).items() if "lora_B" in n}


def test_adalora_cuts_ranks_to_its_target(base):
    method, adapted = adapted_by("adalora", base)
    rows = [Tokens([9 + i, 10, 11], [20 + i, 0]) for i in range(8)]
    Trainer(base, adapted, method, ProtocolConfig(epochs=10, batch_size=2), 0, lambda *_: None).train(rows, rows[:1])
    pattern = adapted.peft_config["default"].rank_pattern
    assert sum(sum(kept) for kept in pattern.values()) == method.target_r * len(pattern)


def test_eva_starts_from_the_inputs_main_directions_and_gives_up_in_words(base, monkeypatch):
    method, adapted = adapted_by("eva", base)
    rows = [Tokens([9 + i, 10 + i, 11, 12, 13, 14 + i], [20 + i, 0]) for i in range(8)]
    start(base, adapted, method, rows, 4)
    inputs = []
    layer = base.model.transformer.h[0].attn.c_attn
    handle = layer.register_forward_hook(lambda _, given, __: inputs.append(given[0].flatten(0, 1)))
    evaluate_loss(base, adapted, rows, 8)
    handle.remove()
    found = layer.lora_A["default"].weight.detach()
    torch.testing.assert_close(found @ found.T, torch.eye(4), atol=1e-4, rtol=0)
    inside = torch.cat(inputs) - torch.cat(inputs).mean(0)
    kept = (inside @ found.T).square().sum() / inside.square().sum()
    assert kept > 0.9 * torch.linalg.svdvals(inside)[:4].square().sum() / inside.square().sum()
    monkeypatch.setattr(lora_starts, "MOST_PASSES", 1)
    with pytest.raises(SetupError, match="eva: .* not settled after 1 batches. Try a smaller r than 4"):
        start(base, adapted, method, rows, 4)


@pytest.mark.parametrize("name", ["pissa"])
def test_a_start_from_weights_is_saved_as_a_plain_lora_and_leaves_the_base(name, base, tiny_model, tmp_path):
    from peft import PeftModel

    untouched = GPT2LMHeadModel.from_pretrained(tiny_model).transformer.h[0].attn.c_attn.weight
    method, adapted = adapted_by(name, base)
    layer = base.model.transformer.h[0].attn.c_attn
    assert torch.equal(layer.get_base_layer().weight, untouched)
    u, s, v = torch.linalg.svd(untouched.T, full_matrices=False)
    product = layer.scaling["default"] * layer.lora_B["default"].weight[:, :4] @ layer.lora_A["default"].weight[:4]
    torch.testing.assert_close(product, u[:, :4] @ torch.diag(s[:4]) @ v[:4], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(0.1)
    method.save(adapted, tmp_path)
    other = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(tiny_model), tmp_path).eval()
    ids = torch.tensor([[9, 10, 11]])
    torch.testing.assert_close(other(input_ids=ids).logits, adapted.eval()(input_ids=ids).logits)

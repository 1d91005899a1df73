"""What methods do after the last step: mixing with the start, and cutting ranks."""

import pytest
import torch

from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import ConfigError
from bakeoff.methods import build_method
from bakeoff.methods.lora_compressed import largest
from bakeoff.testing import ROWS, check_method, family_base

PROTOCOL = ProtocolConfig(epochs=4, batch_size=3, schedule="constant", warmup_share=0, precision="fp32")


def trained(name, family="llama", validation=ROWS, **settings):
    """The base, the trainer after its training, and what it returned."""
    base = family_base(family)
    torch.manual_seed(2)
    method = build_method("x", {"method": name, **settings})
    trainer = Trainer(base, adapt(base, method), method, PROTOCOL, 0, lambda *_: None)
    return base, trainer, trainer.train(ROWS, validation)


@pytest.mark.parametrize("name", ["wise_ft", "wise_lora"])
def test_the_best_mixture_with_the_base_is_taken_and_its_loss_reported(name):
    other = [type(ROWS[0])([5, 6, 7], [90, 91, 0])]
    base, trainer, result = trained(name, validation=other, learning_rate=3e-3, mixtures=4)
    weights = {n: w for n, w in trainable(trainer.adapted).items() if name == "wise_ft" or "lora_B" in n}
    start = dict(family_base("llama").model.named_parameters()) if name == "wise_ft" else dict.fromkeys(weights, 0.0)
    ends = {n: trainer.best[n].detach().clone() for n in weights}
    losses = {}
    for part in range(1, 5):
        with torch.no_grad():
            for n, weight in weights.items():
                weight.copy_(start[n] + part / 4 * (ends[n] - start[n]))
        losses[part] = mean_loss(evaluate_loss(base, trainer.adapted, other, 1))
    assert result.validation_loss == pytest.approx(min(losses.values()), rel=1e-6)


def test_a_pull_toward_the_start_keeps_weights_nearer_to_it():
    def distance(alpha):
        _, trainer, _ = trained("l2_sp", learning_rate=1e-3, alpha=alpha)
        start = dict(family_base("llama").model.named_parameters())
        return sum(float((w - start[n]).detach().square().sum()) for n, w in trainer.weights.items())

    assert distance(10.0) < 0.9 * distance(1e-6)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_larger_adapter_is_cut_to_its_largest_singular_values(family):
    settings = {"r": 4, "saved_r": 2, "learning_rate": 0.01}
    _, trainer, result = trained("lora_compressed", family, **settings)
    first = trainer.best
    for name, weight in trainable(trainer.adapted).items():
        if "lora_A" in name:
            other = name.replace("lora_A", "lora_B")
            before, after = first[other] @ first[name], trainable(trainer.adapted)[other] @ weight
            u, s, v = torch.linalg.svd(before.float())
            torch.testing.assert_close(after, (u[:, :2] * s[:2]) @ v[:2], atol=1e-5, rtol=1e-4)
    assert result.validation_loss == mean_loss(evaluate_loss(trainer.base, trainer.adapted, ROWS, 6))
    assert check_method("lora_compressed", family, settings) is None


def test_factors_of_the_largest_singular_values():
    a, b = torch.randn(5, 7), torch.randn(9, 5)
    first, second = largest(a, b, 5)
    torch.testing.assert_close(second @ first, b @ a, atol=1e-5, rtol=1e-4)


def test_more_ranks_kept_than_trained_are_refused():
    with pytest.raises(ConfigError, match=r"^entries.x: saved_r \(8\) must be at most r \(4\)$"):
        build_method("x", {"method": "lora_compressed", "r": 4, "saved_r": 8})

"""One run over several processes takes the steps, and writes the outputs, of one process."""

import pytest
import torch

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.model.sharding import spread
from bakeoff.compute.model.team import ALONE, whole
from bakeoff.compute.run.checks import fingerprints
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, start
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method
from tests.ranks import together

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]


def trained(model, settings, team=ALONE, **protocol):
    """Return what a training, and reading and writing after it, give."""
    base = load_base(str(model), "fp32", team=team)
    torch.manual_seed(0)
    method = build_method("x", settings)
    adapted = adapt(base, method)
    for module in adapted.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # each process draws other numbers for it
    spread(base, adapted)
    start(base, adapted, method, ROWS, 4)
    before = fingerprints(adapted)
    curve = []
    protocol = ProtocolConfig(epochs=2, batch_size=4, precision="fp32", **protocol)
    trainer = Trainer(base, adapted, method, protocol, 0, lambda kind, row: curve.append((kind, row)))
    result = trainer.train(ROWS, ROWS[:5])
    losses = [(row["validation/loss"], row.get("train/loss")) for kind, row in curve if kind == "metrics"]
    prompts = [row.prompt for row in ROWS]
    return {
        "losses": losses, "tokens": result.tokens, "hashes": before, "moved": before != fingerprints(adapted),
        "weights": {n: whole(w).clone() for n, w in trainable(adapted).items()},
        "outputs": generate(base, adapted, prompts, 5), "read": evaluate_loss(base, adapted, ROWS, 4),
    }  # fmt: skip


def same(found, wanted):
    """Compare what a team found with what one process found, to the documented tolerance."""
    for pair, other in zip(found["losses"], wanted["losses"], strict=True):
        assert pair == (pytest.approx(other[0], rel=1e-5), other[1] and pytest.approx(other[1], rel=1e-5))
    assert [count for _, count in found["read"]] == [count for _, count in wanted["read"]]
    assert [loss for loss, _ in found["read"]] == pytest.approx([loss for loss, _ in wanted["read"]], rel=1e-4)
    assert found["outputs"] == wanted["outputs"]
    assert found["hashes"] == wanted["hashes"]
    assert found["tokens"] == wanted["tokens"]


@pytest.mark.parametrize(("method", "sharded", "size"), [("lora", True, 2), ("full", True, 3), ("full", False, 2)])
def test_a_team_trains_as_one_process_does(tiny_model, tmp_path, method, sharded, size):
    wanted = trained(tiny_model, {"method": method})
    assert wanted["moved"]
    found = together(tmp_path, size, sharded, lambda team: trained(tiny_model, {"method": method}, team))
    for one in found:
        same(one, wanted)
        for name, weight in one["weights"].items():
            assert torch.equal(weight, found[0]["weights"][name]), name

"""Every lever over tiny random models of many architectures, through their real transformers classes."""

from functools import cache

import pytest
import torch
from torch.nn.functional import cross_entropy

from bakeoff.compute.decoding import batch
from bakeoff.compute.decoding.greedy import generate, read_and_generate, reads_targets
from bakeoff.compute.model import forward, shared_prefix
from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.loss import batch_of, evaluate_loss, target_losses
from bakeoff.compute.training.trunk_cache import open_trunk
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.methods import build_method
from bakeoff.testing import FAMILIES, ROWS, family_base
from bakeoff.testing.families import VOCABULARY

METHODS = {
    "prompt_tuning": {"num_virtual_tokens": 3},
    "p_tuning": {"num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM"},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "last_layers": {"blocks": 1},
    "lora": {"r": 2},
    "full": {},
    "layer_norm": {},
    "dora": {"r": 2},
    "ia3": {},
}
SCALED = "PegasusForConditionalGeneration scales only words that it looks up itself"
MOST = 6  # tokens of an output: with a prompt's they are more than the sliding windows see
REFUSED = {("prompt_tuning", "pegasus"): SCALED, ("p_tuning", "pegasus"): SCALED}


def cells(names=tuple(METHODS)):
    """The parameters of a test that runs over all families with each of these methods that takes the family."""
    chosen = [(name, family) for family in FAMILIES for name in names if (name, family) not in REFUSED]
    return pytest.mark.parametrize(("name", "family"), chosen)


@pytest.fixture
def base(request):
    """A tiny base of the family that the test's parameter names."""
    return family_base(request.param)


def adapted_by(name, base):
    torch.manual_seed(1)
    method = build_method(name, {"method": name, **METHODS[name]})
    adapted = adapt(base, method).eval()
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that an adapter that starts at zero does something
    return adapted


@cache
def made(name, family):
    """A family's base and a method on it, for tests that do not change their weights."""
    base = family_base(family)
    return base, adapted_by(name, base)


def plain_losses(base, adapted, row):
    """One row's target losses the plain way: the adapted model's own forward, all logits, no padding."""
    target = torch.tensor(row.target)
    if base.decoder_start is None:
        ids = torch.tensor([row.prompt + row.target])
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(target) - 1 : -1]
    else:
        ids = torch.tensor([row.prompt])
        start = torch.tensor([[base.decoder_start, *row.target[:-1]]])
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=start).logits[0]
    return cross_entropy(logits, target, reduction="none")


def gradients_of(losses, adapted):
    adapted.zero_grad()
    losses.mean().backward()
    return {n: p.grad.clone() for n, p in trainable(adapted).items() if p.grad is not None}


def assert_same(got, want):
    assert set(got) == set(want)
    for name, gradient in want.items():
        scale = float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_a_family_that_a_method_is_not_tried_on_is_refused(name, family):
    with pytest.raises(SetupError, match=REFUSED[name, family]):
        adapted_by(name, family_base(family))


@cells()
def test_losses_and_gradients_equal_the_full_logit_path_whole_and_in_parts(name, family, monkeypatch):
    base, adapted = made(name, family)
    plain = torch.cat([plain_losses(base, adapted, row) for row in ROWS])
    wanted = gradients_of(plain, adapted)
    batch = batch_of(base, ROWS)
    for part in (64, 5):  # of 12 targets
        monkeypatch.setattr(forward, "LOGITS_BYTES", part * 4 * VOCABULARY)
        losses = target_losses(base, adapted, batch)
        torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
        assert_same(gradients_of(losses, adapted), wanted)


@pytest.mark.parametrize("base", FAMILIES, indirect=True)
def test_a_stored_trunk_gives_the_losses_and_gradients_of_the_whole_model(base, tmp_path):
    adapted = adapted_by("last_layers", base)
    trunk = open_trunk(base, adapted, ROWS, tmp_path / "train", None, 2)
    batch = batch_of(base, ROWS)
    wanted = gradients_of(target_losses(base, adapted, batch), adapted)
    with torch.no_grad():
        for block in trunk.blocks:
            for parameter in set(block.parameters()) - {base.model.get_input_embeddings().weight}:
                parameter.fill_(float("nan"))  # none of it may be computed
    losses = target_losses(base, adapted, batch, trunk.serving([0, 1, 2]))
    assert_same(gradients_of(losses, adapted), wanted)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT, of its own dropping of them
@cells()
def test_outputs_equal_hf_generate_row_by_row(name, family, monkeypatch):
    base, adapted = made(name, family)
    prompts = [row.prompt for row in ROWS]
    outputs = [hf_output(adapted, p, base) for p in prompts]
    assert generate(base, adapted, prompts, MOST, 3) == outputs
    assert reads_targets(base, "fp32")
    assert not reads_targets(base, "bf16")
    wanted = outputs, approx_losses(base, adapted, ROWS)
    for part in (64, 5):  # of 12 targets
        monkeypatch.setattr(forward, "LOGITS_BYTES", part * 4 * VOCABULARY)
        assert read_and_generate(base, adapted, prompts, [row.target for row in ROWS], MOST, 3) == wanted


def approx_losses(base, adapted, rows):
    """The plain path's losses of rows, summed, and how many targets each has."""
    plain = [plain_losses(base, adapted, row).detach() for row in rows]
    return [(pytest.approx(float(losses.sum()), rel=1e-5), len(losses)) for losses in plain]


BEGINNING = list(range(100, 112))  # longer than the sliding windows


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT, of its own dropping of them
@cells(["lora", "prompt_tuning", "prefix_tuning"])
def test_what_all_rows_begin_with_changes_neither_losses_nor_outputs(name, family, monkeypatch):
    base, adapted = made(name, family)
    rows = [Tokens(BEGINNING + row.prompt, row.target) for row in ROWS]
    prompts = [row.prompt for row in rows]
    monkeypatch.setattr(shared_prefix, "WORTH", len(BEGINNING))
    shares = base.decoder_start is None and name == "lora"
    read = shared_prefix.read_beginning(base, adapted, prompts)
    assert (read and read.length) == (len(BEGINNING) if shares else None)
    losses = approx_losses(base, adapted, rows)
    assert evaluate_loss(base, adapted, rows, 3) == losses
    monkeypatch.setattr(batch, "part_tokens", lambda base: 20)  # prompts of 15, 17 and 32
    outputs = [hf_output(adapted, p, base) for p in prompts]
    assert generate(base, adapted, prompts, MOST, 3) == outputs
    assert read_and_generate(base, adapted, prompts, [row.target for row in rows], MOST, 3) == (outputs, losses)


@pytest.mark.parametrize("base", ["gpt2", "llama"], indirect=True)
def test_a_beginning_is_read_without_dropout_and_checkpointing_in_the_middle_of_training(base):
    method = build_method("lora", {"method": "lora", "r": 2, "lora_dropout": 0.5})
    adapted = adapt(base, method, gradient_checkpointing=True)
    with torch.no_grad():
        for name, parameter in trainable(adapted).items():
            parameter.fill_(0.1 if "lora_B" in name else 0.2)
    rows = [Tokens(list(range(100, 120)) + row.prompt, row.target) for row in ROWS]
    assert any(module.training for module in adapted.modules())
    found = evaluate_loss(base, adapted, rows, 3)
    state = torch.get_rng_state()
    assert evaluate_loss(base, adapted, rows, 3) == found
    assert torch.equal(torch.get_rng_state(), state)
    adapted.eval()
    plain = [float(plain_losses(base, adapted, row).detach().sum()) for row in rows]
    assert [loss for loss, _ in found] == pytest.approx(plain, rel=1e-5)


def hf_output(adapted, prompt, base):
    """HF generate's greedy output for one prompt alone."""
    ids = torch.tensor([prompt])
    out = adapted.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=MOST,
        eos_token_id=0, pad_token_id=0,
    )[0].tolist()  # fmt: skip
    new = out[1:] if base.decoder_start is not None else out[len(prompt) :] if out[: len(prompt)] == prompt else out
    return new[: new.index(0)] if 0 in new else new

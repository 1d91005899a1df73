import pytest
import torch

from bakeoff.compute.model.base import inner, trainable
from bakeoff.compute.training import loss
from bakeoff.compute.training.batches import collate
from bakeoff.compute.training.loss import evaluate_loss, mean_loss, target_losses
from bakeoff.data.tokens import Tokens
from tests.test_methods import ROWS, SETTINGS, adapted_by


def full_logit_losses(adapted, row):
    """One row's target losses the plain way: the whole model, all logits, nothing selected, no padding."""
    ids = torch.tensor([row.prompt + row.target])
    logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
    losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    return losses[len(row.prompt) - 1 :]


@pytest.mark.parametrize("name", SETTINGS)
def test_target_losses_and_gradients_equal_the_full_logit_path(name, base):
    _, adapted = adapted_by(name, base)
    adapted.eval()
    ours = target_losses(base, adapted, collate(ROWS, 0))
    ours.mean().backward()
    gradients = {n: p.grad.clone() for n, p in trainable(adapted).items()}
    adapted.zero_grad()
    plain = torch.cat([full_logit_losses(adapted, row) for row in ROWS])
    plain.mean().backward()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for n, p in trainable(adapted).items():
        # Terms are added in another order, so that a small entry rounds by its large terms, as where DeLoRA normalises.
        atol = max(1e-6, 1e-5 * float(p.grad.abs().max()))
        torch.testing.assert_close(gradients[n], p.grad, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_does_not_depend_on_the_batch_size(name, base):
    _, adapted = adapted_by(name, base)
    one, all_ = evaluate_loss(base, adapted, ROWS, 1), evaluate_loss(base, adapted, ROWS, 2)
    assert [n for _, n in one] == [len(r.target) for r in ROWS]
    torch.testing.assert_close([s for s, _ in one], [s for s, _ in all_], rtol=1e-6, atol=1e-6)


def test_mean_is_over_tokens_and_not_over_rows():
    assert mean_loss([(6.0, 3), (1.0, 1)]) == 7 / 4


def test_evaluation_leaves_modes_as_they_were(base):
    _, adapted = adapted_by("lora", base)
    before = [m.training for m in inner(adapted).modules()]
    evaluate_loss(base, adapted, ROWS, 2)
    assert [m.training for m in inner(adapted).modules()] == before
    assert any(before)


def test_bf16_stays_near_fp32(base, tiny_model):
    from bakeoff.compute.model.base import load_base

    half = load_base(str(tiny_model), "bf16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    _, adapted = adapted_by("lora", half)
    assert all(p.dtype == torch.float32 for p in trainable(adapted).values())
    reference = mean_loss(evaluate_loss(base, base.model, ROWS, 2))
    assert mean_loss(evaluate_loss(half, adapted, ROWS, 2)) == pytest.approx(reference, rel=0.02)


def test_the_fused_activation_is_the_same_function(tiny_model):
    from transformers import AutoModelForCausalLM

    from bakeoff.compute.model.base import load_base

    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    fused = load_base(str(tiny_model), "fp32").model
    assert type(plain.transformer.h[0].mlp.act) is not type(fused.transformer.h[0].mlp.act)
    ids = torch.arange(9, 30)[None]
    torch.testing.assert_close(fused(input_ids=ids).logits, plain.eval()(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_evaluation_halves_its_batches_where_memory_runs_out(base, monkeypatch):
    rows = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i, 0]) for i in range(9)]
    whole = evaluate_loss(base, base.model, rows, 8)
    plain, most, failed = loss.target_losses, [], []

    def short_of_memory(base, adapted, batch, *rest):
        if len(batch.counts) > 3:
            failed.append(len(batch.counts))
            raise torch.OutOfMemoryError("CUDA out of memory")
        most.append(len(batch.counts))
        return plain(base, adapted, batch, *rest)

    monkeypatch.setattr(loss, "target_losses", short_of_memory)
    assert evaluate_loss(base, base.model, rows, 8) == [(pytest.approx(s, rel=1e-5), n) for s, n in whole]
    assert max(most) == 2
    again = evaluate_loss(base, base.model, rows, 8)
    assert again == [(pytest.approx(s, rel=1e-5), n) for s, n in whole]
    assert failed == [8, 4]  # not anew
    monkeypatch.setattr(loss, "target_losses", lambda *_: (_ for _ in ()).throw(RuntimeError("can't allocate memory")))
    with pytest.raises(RuntimeError, match="allocate"):
        evaluate_loss(base, base.model, rows, 8)

"""Methods keep the contract on tiny instruct bases, whose rows are conversations with one or two answers.

It is a third of the methods, and all of them with BAKEOFF_FUZZ: an example's form means nothing to most.
"""

import pytest
import torch

from bakeoff.compute.decoding.greedy import generate, read_and_generate, reads_targets
from bakeoff.compute.training.loss import evaluate_loss
from bakeoff.methods import method_names
from bakeoff.testing import check_method
from bakeoff.testing.chats import STYLES, chat_base, chat_rows
from tests.conftest import HEAVY

# Each style with the kind of model that usually has it.
FAMILY = {
    "chatml": "qwen2",
    "thinking": "qwen3",
    "llama3": "llama",
    "gemma": "gemma2",
    "mistral": "mistral",
    "phi": "phi",
}
TRIED = ("lora", "prompt_tuning")
CELLS = {(name, [*STYLES][i % len(STYLES)]) for i, name in enumerate(method_names()) if HEAVY or i % 3 == 0}
CELLS |= {(name, style) for name in TRIED for style in STYLES}


@pytest.mark.parametrize(("name", "style"), sorted(CELLS))
def test_every_method_keeps_the_contract_on_conversations(name, style):
    assert check_method(name, FAMILY[style], style=style) == check_method(name, FAMILY[style], checks=())


@pytest.mark.parametrize("style", STYLES)
def test_conversations_have_gaps_where_all_answers_are_trained(style):
    talk, *others = chat_rows(style)
    assert (len(talk.gaps), [row.gaps for row in others]) == (0 if style == "thinking" else 1, [(), ()])


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_outputs_are_those_of_generate_with_all_ends(style):
    base = chat_base(style, FAMILY[style])
    prompts = [row.prompt for row in chat_rows(style)]
    ours = generate(base, base.model, prompts, 12)
    for prompt, output in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        out = base.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
            eos_token_id=sorted(base.ends), pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert output == out[: next((i for i, token in enumerate(out) if token in base.ends), len(out))]


@pytest.mark.parametrize("style", STYLES)
def test_losses_that_are_read_with_decoding_are_those_of_evaluation(style):
    base, rows = chat_base(style, FAMILY[style]), [row for row in chat_rows(style) if not row.gaps]
    assert reads_targets(base, "fp32")
    _, losses = read_and_generate(base, base.model, [r.prompt for r in rows], [r.target for r in rows], 4)
    for (one, count), (other, same) in zip(losses, evaluate_loss(base, base.model, rows, 2), strict=True):
        assert count == same
        assert one == pytest.approx(other, rel=1e-5)

"""Whatever base is given, what is decoded is what its plain forward pass gives; else it is refused before it trains."""

import random

import pytest
import torch
import transformers

from bakeoff.compute.decoding.conformance import SLOW, conforming, rows_for
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import Base
from bakeoff.compute.model.device import forked_random
from bakeoff.errors import SetupError
from bakeoff.testing import FAMILIES, family_base
from bakeoff.testing.families import COMMON, DECODER, build, tokenizer

PROMPTS = [[random.Random(i).randrange(7, 200) for _ in range(random.Random(i).randint(2, 20))] for i in range(9)]


def base_of(name, **fields):
    """A tiny base of an architecture beside the tested families, weights doubled as theirs are."""
    with forked_random():
        torch.manual_seed(0)
        model = build(getattr(transformers, name)(**COMMON | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    return Base(model, tokenizer(), torch.device("cpu"), "fp32")


def plain_outputs(base, prompt, count):
    """Greedy outputs by the plain forward pass of everything before, again for each token."""
    ids = [*prompt]
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == 0:
                break
    new = ids[len(prompt) :]
    return new[:-1] if new[-1] == 0 else new


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tested_families_conform(family):
    base = family_base(family)
    state = torch.get_rng_state()
    found, note = conforming(base)
    assert found == base
    assert note is None
    assert torch.equal(torch.get_rng_state(), state)  # a training draws the same numbers after it


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("MambaConfig", {"hidden_size": 16, "num_hidden_layers": 3, "state_size": 4}),
        ("FalconMambaConfig", {"hidden_size": 16, "num_hidden_layers": 3, "state_size": 4}),
        ("Mamba2Config", {"hidden_size": 16, "num_hidden_layers": 3, "state_size": 4, "num_heads": 4, "head_dim": 8,
                          "n_groups": 1, "chunk_size": 8}),
        ("RwkvConfig", {"hidden_size": 16, "num_hidden_layers": 3, "attention_hidden_size": 16}),
    ],
)  # fmt: skip
def test_recurrent_states_of_their_own_name_are_decoded_with_memory(name, fields):
    base = base_of(name, **fields)
    wrong = generate(base, base.model, PROMPTS, 8)
    found, note = conforming(base)
    plain = [plain_outputs(base, prompt, 8) for prompt in PROMPTS]
    assert generate(found, found.model, PROMPTS, 8) == plain
    assert generate(found, found.model, PROMPTS, 8, 1) == plain
    assert note == SLOW.format("outputs")
    assert not found.cached
    assert wrong != plain


def test_a_model_that_sees_its_targets_is_refused():
    fields = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    xlnet = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "d_head": 8}
    for name, given in (("BertConfig", fields), ("XLNetConfig", xlnet)):
        with pytest.raises(SetupError, match="sees the tokens that follow"):
            conforming(base_of(name, **given))


def test_positions_that_a_decoder_counts_in_its_own_way_are_right():
    """RoBERTa's begin after its padding id, which position ids that are handed to it do not."""
    base = base_of("RobertaConfig", **DECODER, is_decoder=True, max_position_embeddings=64)
    found, note = conforming(base)
    assert note == SLOW.format("outputs")
    outputs = generate(found, found.model, PROMPTS, 8)
    assert outputs == [plain_outputs(base, prompt, 8) for prompt in PROMPTS]


def test_a_model_whose_call_is_another_is_refused_in_one_line():
    fields = {"hidden_size": 16, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 2,
              "num_decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
              "decoder_start_token_id": 0, "max_position_embeddings": 64}  # fmt: skip
    with pytest.raises(SetupError, match="ProphetNet.*cannot be called as a language model") as caught:
        conforming(base_of("ProphetNetConfig", **fields))
    assert "\n" not in str(caught.value)


def test_a_cache_that_is_wrong_for_any_reason_is_found(monkeypatch):
    base = family_base("llama")
    block = base.model.model.layers[1].self_attn
    plain = block.forward

    def forgetful(*args, past_key_values=None, **kwargs):
        return plain(*args, past_key_values=None, **kwargs)

    monkeypatch.setattr(block, "forward", forgetful)
    found, note = conforming(base)
    assert not found.cached
    assert "plain forward pass" in note


def test_the_rows_share_a_beginning_and_no_special_token():
    rows = rows_for(family_base("gpt2"))
    assert rows[0].prompt[:16] == rows[1].prompt[:16]
    assert rows[0].prompt[16] != rows[1].prompt[16]
    assert not {0, 1} & {i for row in rows for i in [*row.prompt, *row.target]}


def test_a_base_is_tried_beside_several_gpus_without_touching_them(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    conforming(family_base("gpt2"))
    there = {"cuda:2": torch.zeros(3)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: there[str(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: there.update({str(device): state}))
    state, before = torch.get_rng_state(), there["cuda:2"]
    with forked_random(torch.device("cuda:2")):
        torch.rand(3)
        there["cuda:2"] = torch.ones(3)
    assert there == {"cuda:2": before}
    assert torch.equal(torch.get_rng_state(), state)

"""What is counted and saved is trained: what no text passes is left out, or told by the plan."""

import resource

import pytest
import torch
import transformers

from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.gradient_reach import check_reach
from bakeoff.compute.training.loss import batch_of, target_losses
from bakeoff.errors import SetupError
from bakeoff.methods import build_method
from bakeoff.methods.injected import check_pattern
from bakeoff.methods.method import beside_text
from bakeoff.testing import ROWS, family_base
from bakeoff.testing.families import BART, COMMON, GROUPED, build
from tests.test_conformance import base_of

EYES = transformers.SiglipVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
)


def seeing():
    """The fields of a tiny Gemma 3 that has a vision tower."""
    text = transformers.Gemma3TextConfig(**COMMON | GROUPED, sliding_window=8)
    fields = {"mm_tokens_per_image": 4, "boi_token_index": 5, "eoi_token_index": 6, "image_token_index": 7}
    return {"text_config": text, "vision_config": EYES, **fields}


@pytest.mark.parametrize("name", ["lora", "dora", "layer_norm", "full"])
def test_nothing_is_put_into_a_vision_tower(name):
    base = base_of("Gemma3Config", **seeing())
    assert any("vision" in part for part in beside_text(base.model))
    adapted = adapt(base, build_method(name, {"method": name}))
    assert not [n for n in trainable(adapted) if "vision" in n]
    target_losses(base, adapted, batch_of(base, ROWS)).mean().backward()
    assert not [n for n, weight in trainable(adapted).items() if weight.grad is None]


def test_a_text_decoder_has_nothing_beside_it():
    for family in ("gpt2", "llama", "gemma3", "t5", "bart"):
        assert beside_text(family_base(family).model) == []


def test_what_no_text_reaches_is_told_from_shapes_alone():
    with torch.device("meta"):
        model = build(transformers.LlamaConfig(**COMMON | GROUPED))
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    check_reach("full", model)
    with torch.device("meta"):
        model.idle = torch.nn.Linear(2, 2)
    with pytest.raises(
        SetupError, match=r"full: 2 of its 3 trained tensors have no effect on any text .*\(idle.weight"
    ):
        check_reach("full", model)


def test_a_longformers_first_token_is_seen_by_all():
    fields = {k: v for k, v in BART.items() if k != "scale_embedding"}
    led = {"attention_window": [8, 8], "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
    base = base_of("LEDConfig", **fields, **led)
    seen = []
    base.model.get_encoder().register_forward_pre_hook(
        lambda _, args, inputs: seen.append(inputs.get("global_attention_mask")), with_kwargs=True
    )
    target_losses(base, base.model, batch_of(base, ROWS))
    assert seen[0].tolist() == [[1] + [0] * 19] * 3
    adapted = adapt(base, build_method("lora", {"method": "lora", "r": 2}))
    target_losses(base, adapted, batch_of(base, ROWS)).mean().backward()
    assert not [n for n, weight in trainable(adapted).items() if weight.grad is None]


def test_a_pattern_that_backtracks_for_ever_ends_in_one_line(monkeypatch):
    monkeypatch.setattr("bakeoff.methods.injected.PATTERN_SECONDS", 1)
    base = family_base("llama")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(SetupError, match="lora: target_modules: .* takes more than 1 s to match"):
        adapt(base, build_method("lora", {"method": "lora", "target_modules": r"((\w+\.?)+)+!"}))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before.ru_utime < 3
    check_pattern("x", r".*\.(q|v)_proj", ["model.layers.0.self_attn.q_proj"])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("OPTConfig", {"hidden_size": 16, "word_embed_proj_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "ffn_dim": 32, "max_position_embeddings": 64, "do_layer_norm_before": False}),
        ("MptConfig", {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "expansion_ratio": 2}),
        ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)  # fmt: skip
def test_virtual_tokens_stand_before_bases_that_peft_does_not_know(name, fields):
    for method in ("prompt_tuning", "p_tuning", "prefix_tuning"):
        base = base_of(name, **fields)
        built = build_method(method, {"method": method, "num_virtual_tokens": 3, "prompt_tuning_init_text": "w5 w6"})
        with torch.device("meta"):
            shape = build(getattr(transformers, name)(**COMMON | fields))
            if shape._can_set_experts_implementation():
                shape.set_experts_implementation("batched_mm")
            check_reach(method, built.adapt(shape, None))
        adapted = adapt(base, built)
        target_losses(base, adapted, batch_of(base, ROWS)).mean().backward()
        assert not [n for n, weight in trainable(adapted).items() if weight.grad is None]

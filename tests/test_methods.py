import copy
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bakeoff.api import plan
from bakeoff.compute.model.adapter_files import load_adapter, save_adapter
from bakeoff.compute.model.base import (
    Base,
    adapt,
    count_parameters,
    inner,
    load_base,
    trainable,
)  # fmt: skip
from bakeoff.compute.training.loss import evaluate_loss, mean_loss, start
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.methods.last_layers import find_blocks
from bakeoff.testing import ROWS, check_method, family_base, family_shape

NOT_FOR_GPT2 = {"olora", "beft"}  # its weights are stored as (inputs, outputs), and values with queries and keys
SETTINGS = {
    **{name: method_class(name).tiny for name in method_names() if name not in NOT_FOR_GPT2},
    **{name: {"num_virtual_tokens": 4} for name in ("prompt_tuning", "p_tuning", "prefix_tuning")},
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["c_attn"]},
}


def adapted_by(name: str, base: Base):
    method = build_method(name, {"method": name, **SETTINGS[name]})
    torch.manual_seed(1)
    return method, adapt(base, method)


@pytest.mark.parametrize(
    ("name", "settings", "trainable_count", "total"),
    [
        ("prompt_tuning", {"num_virtual_tokens": 6}, 4_608, 124_439_808 + 4_608),
        ("last_layers", {"blocks": 1, "head": True}, 45_685_248, 124_439_808 + 50_257 * 768),
        ("lora", {"r": 128, "lora_alpha": 32, "target_modules": ["c_attn"]}, 4_718_592, 129_158_400),
        ("full", {}, 124_439_808, 124_439_808),
        ("bias", {}, 12 * (2_304 + 768 + 3_072 + 768 + 2 * 768) + 768, 124_439_808),
        ("layer_norm", {}, 12 * 4 * 768 + 2 * 768, 124_439_808 + 12 * 4 * 768 + 2 * 768),
        ("ia3", {}, 12 * (2_304 + 3_072), 124_439_808 + 12 * (2_304 + 3_072)),
    ],
)
def test_counts_on_gpt2s_shape(name, settings, trainable_count, total):
    with torch.device("meta"):
        model = build_method(name, {"method": name, **settings}).adapt(GPT2LMHeadModel(GPT2Config()), None)
    assert count_parameters(model) == (trainable_count, total)


@pytest.mark.parametrize("name", sorted(NOT_FOR_GPT2))
def test_what_does_not_work_with_gpt2_says_so_in_one_line(name, base):
    with pytest.raises(SetupError, match=f"^{name}: .*(as GPT-2 stores them|has no list for gpt2)") as error:
        adapt(base, build_method("x", {"method": name, **method_class(name).tiny}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_saved_adapter_gives_the_same_loss_on_a_fresh_bf16_base(name, tiny_model, tmp_path, tiny_config):
    from bakeoff.config.loading import load_config

    base = load_base(str(tiny_model), "bf16")
    method, adapted = adapted_by(name, base)
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_adapter(tmp_path / "adapter", adapted, method, load_config(tiny_config))
    fresh = load_base(str(tiny_model), "bf16")
    loaded = load_adapter(fresh, tmp_path / "adapter")
    assert evaluate_loss(base, adapted, ROWS, 2) == evaluate_loss(fresh, loaded, ROWS, 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_method_that_says_so_starts_as_a_bf16_base(name, tiny_model):
    base = load_base(str(tiny_model), "bf16")
    reference = evaluate_loss(base, base.model, ROWS, 2)
    method, adapted = adapted_by(name, base)
    if method.starts_exactly("bf16"):
        assert evaluate_loss(base, adapted, ROWS, 2) == reference


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_soft_prompt_starts_as_if_its_text_stood_there(name, family):
    base = family_base(family)
    text = [5, 6, 5]
    rows = [replace(row, prompt=text + row.prompt) for row in ROWS]
    wanted = evaluate_loss(base, base.model, rows, 3)
    method = build_method("p", {"method": name, "num_virtual_tokens": 3, "prompt_tuning_init_text": "w5 w6"})
    adapted = adapt(base, method)
    for got, want in zip(evaluate_loss(base, adapted, ROWS, 3), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning"])
def test_a_soft_prompt_is_refused_where_the_model_scales_only_what_it_looks_up(name):
    with pytest.raises(SetupError, match="PegasusForConditionalGeneration scales only words"):
        build_method(name, {}).adapt(family_shape("pegasus"), None)


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_searched_start_has_a_lower_loss_and_is_the_same_again(name, base):
    def begun(how):
        torch.manual_seed(1)
        method = build_method("p", {"method": name, "num_virtual_tokens": 4, "prompt_tuning_init": how,
                                    "prompt_tuning_init_text": "w5 w6"})  # fmt: skip
        adapted = adapt(base, method)
        start(base, adapted, method, ROWS, len(ROWS))
        return mean_loss(evaluate_loss(base, adapted, ROWS, len(ROWS)))

    assert begun("SEARCH") < begun("TEXT")
    assert begun("SEARCH") == begun("SEARCH")


def test_a_searched_start_keeps_the_contract():
    assert check_method("prompt_tuning", "t5", {"prompt_tuning_init": "SEARCH"}) is None


def test_a_soft_prompt_starts_as_words_drawn_by_the_seed(base):
    def prompt(seed):
        torch.manual_seed(seed)
        method = build_method("p", {"method": "prompt_tuning", "prompt_tuning_init": "SAMPLE_VOCAB"})
        return adapt(base, method).get_prompt(batch_size=1)[0].detach()

    words = base.model.get_input_embeddings().weight
    first = prompt(1)
    assert all((row == words).all(1).any() for row in first)
    assert torch.equal(first, prompt(1))
    assert not torch.equal(first, prompt(2))


def test_untied_head_leaves_the_embedding_frozen(base):
    before = copy.deepcopy(base.model.get_input_embeddings().weight)
    _, adapted = adapted_by("last_layers", base)
    assert not inner(adapted).get_input_embeddings().weight.requires_grad
    inner(adapted).get_output_embeddings().weight.data.zero_()
    torch.testing.assert_close(inner(adapted).get_input_embeddings().weight, before)
    names = {n.split(".")[0] if "lm_head" in n else ".".join(n.split(".")[:3]) for n in trainable(adapted)}
    assert names == {"transformer.h.1", "lm_head"}


def test_frozen_parts_are_in_eval_mode(base):
    _, adapted = adapted_by("lora", base)
    training = {n.rpartition(".")[2] for n, m in base.model.named_modules() if m.training and not list(m.children())}
    assert "lora_A" not in training
    assert not base.model.transformer.drop.training
    assert not base.model.transformer.h[0].attn.attn_dropout.training
    assert base.model.transformer.h[0].attn.c_attn.lora_dropout["default"].training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lara"}, "Did you mean 'lora'"),
        ({"method": "lora", "rank": 4}, "not a field of lora"),
        ({"method": "lora", "r": 0}, r"entries.x.r: .*greater than or equal to 1 \(got 0\)"),
        ({"method": "prompt_tuning", "learning_rate": -1}, "learning_rate"),
        ({"method": "adalora", "init_r": 8, "target_r": 8}, "target_r must be below init_r"),
        ({"method": "trainable_tokens"}, "token_indices: "),
        ({"method": "trainable_tokens", "token_indices": [3, -1]}, r"token_indices.1: .* equal to 0 \(got -1\)"),
        ({"method": "trainable_tokens", "token_indices": [3, 4, 3]}, "token_indices: 3 appears twice"),
        (
            {"method": "vblora", "topk": 9, "num_vectors": 8},
            r"^entries.x: topk \(9\) must be at most num_vectors \(8\)$",
        ),
    ],
)
def test_bad_settings_are_explained(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_method("x", settings)


def test_bad_fit_to_the_model_is_explained(base):
    with pytest.raises(SetupError, match="more than the model's 2"):
        adapt(base, build_method("x", {"method": "last_layers", "blocks": 3}))
    for names in (["q_proj"], ["c_attn", "q_proj"]):
        with pytest.raises(SetupError, match="no weight is called 'q_proj'. This model has: .*c_attn"):
            adapt(base, build_method("x", {"method": "lora", "target_modules": names}))
    with pytest.raises(SetupError, match="vblora: .*divisible by `vector_length` 7"):
        adapt(base, build_method("x", {"method": "vblora", "vector_length": 7}))
    with pytest.raises(SetupError, match=r"eva: r: 17 is more than a weight of shape \(48, 16\) allows"):
        build_method("x", {"method": "eva", "r": 17}).adapt(family_shape("gpt2"), None)
    rows = base.model.config.vocab_size
    with pytest.raises(
        SetupError, match=f"token_indices: {rows} is not a token of the model. Allowed: 0 to {rows - 1}"
    ):
        adapt(base, build_method("x", {"method": "trainable_tokens", "token_indices": [1, rows]}))
    with pytest.raises(SetupError, match="feedforward_modules: no scaled weight is called 'up'. Scaled: c_attn, "):
        build_method("x", {"method": "ia3", "feedforward_modules": ["up"]}).adapt(family_shape("gpt2"), None)
    with pytest.raises(SetupError, match=r"pissa: r: 17 is more than a weight of shape \(48, 16\) allows"):
        adapt(base, build_method("x", {"method": "pissa", "r": 17}))


def test_blocks_and_norm_are_found_in_other_decoders():
    from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PhiConfig

    small = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for config in (
        OPTConfig(**small, ffn_dim=16, word_embed_proj_dim=16),
        PhiConfig(**small, intermediate_size=16),
        LlamaConfig(**small, intermediate_size=16),
    ):
        blocks, norm = find_blocks(AutoModelForCausalLM.from_config(config))
        assert len(blocks) == 2
        assert sum(p.numel() for p in norm.parameters()) > 0


def test_a_prefix_is_refused_where_blocks_are_recomputed(tiny_config):
    from bakeoff.config.loading import load_config
    from bakeoff.driver.entries import checked_entries

    tiny_config |= {"entries": {"prefix_tuning": {}}}
    assert checked_entries(load_config(tiny_config))
    tiny_config["protocol"]["gradient_checkpointing"] = True
    with pytest.raises(ConfigError, match="prefix_tuning cannot be trained with protocol.gradient_checkpointing"):
        checked_entries(load_config(tiny_config))


def test_a_prefix_is_planned_for_a_model_that_has_a_padding_token():
    data = {"source": "docstrings", "train_limit": 20, "validation_limit": 5, "test_limit": 5}
    planned = plan({"model": "base", "data": data, "entries": ["prefix_tuning"]})  # keys and values of 5 blocks
    assert planned["entries"]["prefix_tuning"]["trainable_parameters"] == 20 * 5 * 2 * 256

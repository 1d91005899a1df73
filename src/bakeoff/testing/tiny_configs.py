"""Tiny configs of any architecture of transformers: its own config with all large numbers made small.

Fields are recognised by patterns of their names. Sizes that fit together are found by trying: the first sizes, then
half of them; counts that a config leaves open stay open, then are given, until a model can be called.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from itertools import product
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bakeoff.compute.decoding.conformance import plain_losses, rows_for
from bakeoff.compute.model.base import Base, set_up
from bakeoff.compute.model.device import forked_random
from bakeoff.compute.model.loading import without_values
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line
from bakeoff.testing.families import VOCABULARY, tokenizer

PAD = 1  # an id of its own, and in no text: some models count positions by it
MOST_NUMBERS = 5_000_000  # of a model that is worth building
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
KINDS = ("layer_types", "layers_block_type", "layer_type", "mlp_layer_types")
KEPT = {"rope_parameters", "rope_scaling", "id2label", "label2id"}
# What a field is at most, by its name: the first pattern that fits.
SMALL = (
    (r"pad_token_id", PAD),
    (r".*(vocab|vocabulary)_size|vocab_size_per_layer_input", VOCABULARY),
    (r"(\w+_)?token_(id|index)", 0),
    (r"qk_rope_head_dim|qk_nope_head_dim|rotary_dim", 4),  # before head_dim, which two of them are the sum of
    (r"d_head|mamba_d_head|mamba_head_dim|(global_|\w*_)?head_dim|d_kv|kv_channels|\w*head_size", 8),
    (r"hidden_size|n_embd|d_model|dim|emb_dim|embed_dim|word_embed_proj_dim|embedding_size|lru_width|dim_model"
     r"|embedding_dim|attention_hidden_size|hidden_dim", 16),
    (r".*intermediate.*size.*|(\w+_)?ffn_dim|d_ff|dim_ff|dff|ffn_hidden_size|n_inner|d_inner|mamba_d_ssm", 32),
    (r".*num_key_value_heads|num_kv_heads|n_kv_heads", 2),
    (r"mamba_n_heads|mamba_num_heads", 4),
    (r"num_heads|n_heads?|.*attention_heads|.*num_.*heads", 2),
    (r".*lora_rank.*", 8),
    (r"num_.*layers|n_layers?|(en|de)coder_layers|depth", 2),
    (r"n_routed_experts|n_experts|(num|moe_num)_.*experts", 4),
    (r"num_experts_per_tok(en)?|moe_k|top_?k_experts|moe_top_?k|num_selected_experts", 2),
    (r"n_groups?|num_expert_groups?|topk_group|mamba_n_groups", 1),
    (r"state_size|mamba_d_state|ssm_state_size|d_state", 4),
    (r"max_.*position.*|n_positions|n_ctx|max_seq_len|max_sequence_length", 64),
    (r"sliding_window|window_size|attention_window_size|.*chunk_size|attention_window", 8),
)  # fmt: skip
WIDER = next(pattern for pattern, _ in SMALL if "hidden_size" in pattern) + r"|(?!.*(kv|key_value)).*heads?"
COUNTED = r".*heads|.*experts.*|.*_group"
# What shrinking by names does not get right.
GIVEN: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_shape": [8, 8],
                 "axial_pos_embds_dim": [8, 8], "feed_forward_size": 32, "num_buckets": 4},
    "opt": {"word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "switch_transformers": {"expert_capacity": 64}, "nllb-moe": {"expert_capacity": 64},
    "led": {"attention_window": [8, 8]},
}  # fmt: skip


def tiny_base(kind: str, factory: Any) -> tuple[Base, PreTrainedConfig]:
    """Return a tiny model of an architecture, and its config; raise SetupError if there is none.

    It is the first that can be called with a text; if there is no such model, the first that can be built.
    """
    built: list[tuple[Base, PreTrainedConfig]] = []
    errors: list[SetupError] = []
    for twice, given in product((1, 2), (False, True)):
        try:
            with forked_random(), one_line("no tiny model can be built"):
                torch.manual_seed(0)
                built.append(build(kind, factory, twice, given))
            with torch.no_grad(), one_line("it cannot be called"):
                base = built[-1][0]
                plain_losses(base, rows_for(base)[0])
        except SetupError as error:
            errors.append(error)
        else:
            return built[-1]
    if not built:
        raise errors[0]
    return built[0]


def build(kind: str, factory: Any, twice: int, given: bool) -> tuple[Base, PreTrainedConfig]:
    """Return the model of one tiny config, of random weights, and the config."""
    with torch.device("meta"):
        shape = factory.from_config(tiny_config(kind, factory, twice, given))
    numbers = sum(t.numel() for t in (*shape.parameters(), *shape.buffers()))
    if numbers > MOST_NUMBERS:
        raise SetupError(f"{numbers:,} numbers at its smallest")
    model = factory.from_config(tiny_config(kind, factory, twice, given)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)  # a flat random model has the same logits everywhere
    set_up(model)
    return Base(model, tokenizer(), torch.device("cpu"), "fp32"), tiny_config(kind, factory, twice, given)


def tiny_shape(config: PreTrainedConfig, factory: Any) -> PreTrainedModel:
    """Return the model of a tiny config on the meta device, as a plan sees it."""
    with torch.device("meta"):
        model = without_values(factory.from_config(deepcopy(config)))
    set_up(model)
    return model


def tiny_config(kind: str, factory: Any, twice: int = 1, given: bool = False) -> PreTrainedConfig:
    """Return an architecture's own config with everything large made small; as a decoder, if it can be one.

    `twice` makes widths and heads twice as large; `given` gives counts that the config leaves open.
    """
    cls = CONFIG_MAPPING[kind]
    own = cls()
    declared = {field.name for field in fields(cls)} | {*cls.attribute_map.values()}  # others are computed from these
    known = {name: value for name, value in own.to_dict().items() if name in declared}
    small = shrunk(known, twice, given) | GIVEN.get(kind, {})
    small |= {name: None for name in ("forced_eos_token_id", "forced_bos_token_id") if name in small}
    if factory is AutoModelForCausalLM and hasattr(own, "is_decoder"):
        small["is_decoder"] = True
    if own.is_encoder_decoder:
        small["decoder_start_token_id"] = 0
    return cls(**{k: v for k, v in small.items() if k not in ("architectures", "model_type", "dtype")})


def shrunk(fields: Mapping[str, Any], twice: int, given: bool) -> dict[str, Any]:
    """Return a config's fields made small: sizes by their names; lists with one item per layer are cut."""
    depth = next((fields[name] for name in LAYERS if fields.get(name)), None)
    small = {name: value_of(name, value, twice, given) for name, value in fields.items()}
    kinds = next((list(dict.fromkeys(fields[name])) for name in KINDS if fields.get(name)), [])
    left = max(2, len(kinds))
    for name in LAYERS:
        if small.get(name):
            small[name] = left
    for name, value in small.items():
        if name in KINDS and value:
            small[name] = (list(dict.fromkeys(value)) * left)[:left]
        elif isinstance(value, list) and len(value) == depth:
            small[name] = value[:left]
        elif isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
            small[name] = {key: item for key, item in value.items() if int(key) < left}
    return small


def value_of(name: str, value: Any, twice: int, given: bool) -> Any:
    """Return a field's value made small."""
    if isinstance(value, dict) and name not in KEPT:
        return shrunk(value, twice, given)
    if name == "rope_parameters" and isinstance(value, dict) and given:
        return {key: 10_000.0 if key == "rope_theta" and item is None else item for key, item in value.items()}
    asked = given and value is None and re.fullmatch(COUNTED, name)
    if not asked and (isinstance(value, bool) or not isinstance(value, int)):
        return value
    for pattern, most in SMALL:
        if re.fullmatch(pattern, name):
            most *= twice if re.fullmatch(WIDER, name) else 1
            return most if asked or "token" in pattern else min(value, most)
    return value

"""Every architecture that transformers has for text, made tiny, and what bakeoff can do with it: tried, never listed.

Configs are shrunk by the names of their fields. Where that gives nothing small that can be built, the architecture is
not tried, and the page says so.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from bakeoff.errors import BakeoffError
from bakeoff.evaluation.conformance import conforming, rows_for
from bakeoff.evaluation.generation import generate
from bakeoff.foreign import in_short, one_line
from bakeoff.loading import quiet
from bakeoff.methods import build_method, method_class
from bakeoff.model import Base, adapt, attend_globally, trainable
from bakeoff.testing.families import ROWS, VOCABULARY, tokenizer
from bakeoff.training.loss import batch_of, target_losses

PAD = 2  # an id of its own: some models count positions by it
MOST_NUMBERS = 500_000  # of a model that is worth building
OUTPUT = 6  # tokens
TRIED = ("lora", "ia3", "layer_norm", "last_layers", "full", "prompt_tuning", "prefix_tuning")  # one of each kind
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
KINDS = ("layer_types", "layers_block_type", "layer_type", "mlp_layer_types")
KEPT = {"rope_parameters", "rope_scaling", "id2label", "label2id"}
# What a field is at most, by its name: the first pattern that fits.
SMALL = (
    (r"pad_token_id", PAD),
    (r".*(vocab|vocabulary)_size|vocab_size_per_layer_input", VOCABULARY),
    (r"(\w+_)?token_(id|index)", 0),
    (r"d_head|mamba_d_head|mamba_head_dim|(global_|\w*_)?head_dim|d_kv|kv_channels|\w*head_size", 8),
    (r"qk_rope_head_dim|qk_nope_head_dim|rotary_dim", 4),
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
    (r"n_groups?|topk_group|mamba_n_groups", 1),
    (r"state_size|mamba_d_state|ssm_state_size|d_state", 4),
    (r"max_.*position.*|n_positions|n_ctx|max_seq_len|max_sequence_length", 64),
    (r"sliding_window|window_size|attention_window_size|.*chunk_size|attention_window", 8),
)  # fmt: skip
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


UNENDING = {"xlstm"}  # a tiny one takes minutes


class NotTriedError(Exception):
    """No tiny model of an architecture could be built."""


def architectures() -> list[tuple[str, Any]]:
    """Return the model types that transformers has a causal or an encoder-decoder class for, with that class's factory.

    A type with both has the encoder-decoder's.
    """
    both: dict[str, Any] = dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM)
    both |= dict.fromkeys(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM)
    return sorted(both.items())


def tiny_base(kind: str, factory: Any) -> Base:
    """Return a tiny model of an architecture; raise NotTriedError where there is none."""
    if kind in UNENDING:
        raise NotTriedError("a tiny one takes minutes")
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = tiny_config(kind, factory)
            with torch.device("meta"):
                numbers = sum(t.numel() for m in [factory.from_config(config)] for t in (*m.parameters(), *m.buffers()))
            if numbers > MOST_NUMBERS:
                raise NotTriedError(f"{numbers} numbers at its smallest")
            model = factory.from_config(tiny_config(kind, factory)).float().eval()
    except NotTriedError:
        raise
    except Exception as error:  # a stranger's config, whose fields were changed by their names
        raise NotTriedError(in_short(error)) from error
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)  # a flat random model has the same logits everywhere
    attend_globally(model)
    if not model.config.is_encoder_decoder:
        model.config.pad_token_id = None  # as `load_base` does
    return Base(model, tokenizer(), torch.device("cpu"), "fp32")


def tiny_config(kind: str, factory: Any) -> PreTrainedConfig:
    """Return an architecture's own config with all that is large made small; as a decoder, where it can be one."""
    cls = CONFIG_MAPPING[kind]
    own = cls()
    fields = shrunk(own.to_dict()) | GIVEN.get(kind, {})
    fields |= {name: None for name in ("forced_eos_token_id", "forced_bos_token_id") if name in fields}
    if factory is AutoModelForCausalLM and hasattr(own, "is_decoder"):
        fields["is_decoder"] = True
    if own.is_encoder_decoder:
        fields["decoder_start_token_id"] = 0
    return cls(**{k: v for k, v in fields.items() if k not in ("architectures", "model_type", "dtype")})


def shrunk(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's fields made small: sizes by their names, and lists that have an item for each layer cut."""
    depth = next((fields[name] for name in LAYERS if fields.get(name)), None)
    small = {name: value_of(name, value) for name, value in fields.items()}
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


def value_of(name: str, value: Any) -> Any:
    """Return a field's value made small."""
    if isinstance(value, dict) and name not in KEPT:
        return shrunk(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    for pattern, most in SMALL:
        if re.fullmatch(pattern, name):
            return most if "token" in pattern else min(value, most)
    return value


def architecture_row(kind: str, factory: Any) -> dict[str, Any]:
    """Return what bakeoff can do with an architecture: how it is decoded, and which methods train on it."""
    with quiet(), quietly():
        try:
            base = tiny_base(kind, factory)
        except NotTriedError as reason:
            return {"model": None, "note": str(reason)}
        row: dict[str, Any] = {"model": type(base.model).__name__, "methods": {}}
        try:
            base, note = conforming(base)
        except BakeoffError as error:
            return row | {"decodes": "no", "note": str(error).removeprefix(f"model: {row['model']}: ")}
        row |= {"decodes": "with its cache" if note is None else "without its cache", "note": ""}
        row["generate"] = equals_generate(base)
        row["methods"] = {name: trains(base, name) for name in TRIED}
        return row


@contextmanager
def quietly() -> Iterator[None]:
    """Within, what a tiny model makes libraries warn of is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def equals_generate(base: Base) -> bool | None:
    """Return whether greedy outputs are those of transformers' own generate, without its cache; None where it fails."""
    prompts = [row.prompt for row in rows_for(base)]
    ours = generate(base, base.model, prompts, OUTPUT)
    try:
        theirs = [generated(base, prompt) for prompt in prompts]
    except Exception:  # their side of the comparison, whatever is wrong with it
        return None
    return ours == theirs


@torch.no_grad()
def generated(base: Base, prompt: Sequence[int]) -> list[int]:
    """Return transformers' greedy output for one prompt."""
    ids = torch.tensor([[*prompt]])
    start = {} if base.decoder_start is None else {"decoder_start_token_id": base.decoder_start}
    out = base.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=OUTPUT, eos_token_id=0,
        pad_token_id=0, num_beams=1, repetition_penalty=1.0, use_cache=False, **start,
    )[0].tolist()  # fmt: skip
    new = out[1:] if start else out[len(prompt) :]
    return new[: new.index(0)] if 0 in new else new


def trains(base: Base, name: str) -> str | None:
    """Return None where a batch's loss reaches all that a method trains, else why it cannot be used."""
    method = build_method(name, {"method": name, **method_class(name).tiny})
    copy = Base(deepcopy(base.model), base.tokenizer, base.device, base.precision, base.cached)
    try:
        with one_line(name), torch.random.fork_rng():
            adapted = adapt(copy, method)
            target_losses(copy, adapted, batch_of(copy, ROWS)).mean().backward()
    except BakeoffError as error:
        return str(error)
    idle = [n for n, weight in trainable(adapted).items() if weight.grad is None]
    return f"{len(idle)} tensors are never trained ({idle[0]} first)" if idle else None


def architectures_page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in Markdown what bakeoff can do with each architecture, and which are refused or untried."""
    lines = [
        "## Further architectures",
        "",
        "Written by `bakeoff methods --architectures`: every causal and encoder-decoder class of transformers that",
        "could be made tiny by the names of its config's fields. Losses and greedy outputs were compared with the",
        "plain forward pass of one row alone, as they are for any base that is loaded; *without* a cache outputs are",
        "the same and take longer. *generate*: greedy outputs are those of transformers' own generate. Then a method",
        "of each kind: whether it can be put on the tiny model, and a batch's loss reaches all that it trains.",
        "",
        "| model type | class | cache | generate | " + " | ".join(TRIED) + " |",
        "|---" * (len(TRIED) + 4) + "|",
    ]
    for kind, row in rows.items():
        if row["model"] and row["decodes"] != "no":
            same = {True: "yes", False: "differs", None: "not compared"}[row["generate"]]
            cells = ["no" if row["methods"][name] else "yes" for name in TRIED]
            cache = row["decodes"].removesuffix(" its cache")
            lines.append(f"| {kind} | {row['model']} | {cache} | {same} | {' | '.join(cells)} |")
    refused = [f"- {k} ({row['model']}): {row['note']}" for k, row in rows.items() if row.get("decodes") == "no"]
    untried = [kind for kind, row in rows.items() if not row["model"]]
    lines += ["", "Refused in one line (sizes that do not fit may be the tiny config's own fault):", "", *refused]
    lines += ["", f"Not tried, since no tiny model could be built: {', '.join(untried)}."]
    return "\n".join(lines)

"""Tiny seeded random models of every family that bakeoff knows, made in milliseconds with transformers' own classes.

Everything that is said about a family (in the capability matrix, the contract, the tests) is tested with these.
"""

from copy import deepcopy
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from bakeoff.compute.model.base import Base, load_model, set_up
from bakeoff.compute.model.device import forked_random
from bakeoff.compute.model.head import is_head_alone
from bakeoff.compute.model.kernels import fuse
from bakeoff.compute.model.loading import model_class, quiet, without_values
from bakeoff.compute.model.quantization import shape_in
from bakeoff.config.sections import LATEST
from bakeoff.data.tokens import Tokens
from bakeoff.store.records import Quantize

VOCABULARY = 200
END = "<|endoftext|>"
COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
DECODER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
GROUPED = {**DECODER, "num_key_value_heads": 1, "head_dim": 8}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": 0,
        "forced_eos_token_id": None, "scale_embedding": True}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "decoder_start_token_id": 0,
      "initializer_factor": 0.5}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}),
    "opt": ("OPTConfig", {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 3,
                          "num_attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 64}),
    "gpt_neox": ("GPTNeoXConfig", DECODER),
    "phi": ("PhiConfig", DECODER),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED),
    "gemma2": ("Gemma2Config", {**GROUPED, "final_logit_softcapping": 0.5, "sliding_window": 8}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "sliding_window": 8}),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 4.0}),
    "t5": ("T5Config", T5),
    "flan_t5": ("T5Config", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("BartConfig", BART),
    "pegasus": ("PegasusConfig", BART),
}  # fmt: skip
FAMILIES = tuple(SHAPES)
BIASES = 0.02  # standard deviation
# Three examples of unequal lengths, one longer than the sliding windows above; all end with the end token.
ROWS = (
    Tokens([9, 10, 11, 12, 3], [20, 21, 0]),
    Tokens([30, 31, 3], [40, 0]),
    Tokens(list(range(50, 70)), [60, 61, 62, 63, 64, 65, 0]),
)


def family_config(family: str) -> PreTrainedConfig:
    """Return the tiny config of a family; its vocabulary has VOCABULARY ids, and 0 ends a text."""
    name, fields = SHAPES[family]
    return getattr(transformers, name)(**COMMON | fields)


def family_base(family: str, quantize: Quantize = "none") -> Base:
    """Return a family's tiny model with a tokenizer, on the CPU in fp32, with the same weights at every call.

    Weights are twice as large as transformers draws them: a flat random model has the same logits everywhere. Biases
    are not the zeros of transformers, which hide what a method does with a bias.
    Raises SetupError if it cannot be stored as `quantize` says.
    """
    model = deepcopy(first_model(family) if quantize == "none" else packed_model(family, quantize))
    fuse(model, torch.device("cpu"))
    return Base(model, tokenizer(), torch.device("cpu"), "fp32", head_alone=is_head_alone(model), quantize=quantize)


@cache
def packed_model(family: str, quantize: Quantize) -> PreTrainedModel:
    """Return the same model loaded from its files with packed matrices."""
    with TemporaryDirectory(prefix="bakeoff-") as temporary, quiet():
        first_model(family).save_pretrained(temporary)
        return load_model(temporary, "fp32", LATEST, quantize, torch.device("cpu"))


@cache
def first_model(family: str) -> PreTrainedModel:
    """Return the model that all tiny models of a family are copies of: copying is faster than drawing weights."""
    with forked_random():
        torch.manual_seed(0)
        model = build(family_config(family)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
            elif name.endswith("bias"):
                parameter.add_(BIASES * torch.randn(parameter.shape, generator=generator))
    return model


def family_shape(family: str, quantize: Quantize = "none", tokenizer: Any = None) -> PreTrainedModel:
    """Return a family's model on the meta device, as a plan sees it; with the vocabulary of a `tokenizer`, if given."""
    config = family_config(family)
    config.vocab_size = config.vocab_size if tokenizer is None else len(tokenizer)
    with torch.device("meta"):
        return shape_in(without_values(build(config)), quantize)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model of random weights."""
    model = model_class(config).from_config(config)
    set_up(model)
    return model


@cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of whole words: w3 to w199 are the ids 3 to 199, 0 ends a text, 1 is any other word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [END, "[UNK]", ":", *(f"w{i}" for i in range(3, VOCABULARY))]
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token=END, bos_token=END, pad_token=END, unk_token="[UNK]"
    )

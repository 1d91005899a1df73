"""Small chat templates in the styles of the usual families, and tokenizers that have them, for tests."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from bakeoff.compute.model.base import Base
from bakeoff.compute.model.device import forked_random
from bakeoff.compute.model.head import is_head_alone
from bakeoff.compute.model.kernels import fuse
from bakeoff.compute.model.loading import quiet
from bakeoff.config.chat import ChatConfig
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example
from bakeoff.data.tokens import Tokens, encode
from bakeoff.testing.families import build, family_config

CHATML = """{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
THINKING = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- set content = m.content -%}
{%- if m.role == 'assistant' -%}
{%- set thought = '' -%}
{%- if '</think>' in content -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.index0 > ns.last -%}
{%- set content = '<think>\\n' + thought + '\\n</think>\\n\\n' + content -%}
{%- endif -%}
{%- endif -%}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""
LLAMA3 = """{{- bos_token -}}
{%- for m in messages -%}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""
GEMMA = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
{{- '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""
MISTRAL = """{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{%- set ns.system = m.content + '\\n\\n' -%}
{%- elif m.role == 'user' -%}{{- '[INST] ' + ns.system + m.content + ' [/INST]' -}}
{%- set ns.system = '' -%}
{%- elif m.role == 'assistant' -%}{{- ' ' + m.content + eos_token -}}
{%- else -%}{{- raise_exception('Only user, system and assistant roles are supported!') -}}
{%- endif -%}
{%- endfor -%}"""
PHI = """{%- for m in messages -%}
{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}"""
# By style: the template, its special tokens, and its added tokens that are not special.
STYLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>"), ()),
    "thinking": (THINKING, ("<|im_start|>", "<|im_end|>"), ("<think>", "</think>")),
    "llama3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), ()),
    "gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>"), ()),
    "mistral": (MISTRAL, ("[INST]", "[/INST]"), ()),
    "phi": (PHI, ("<|end|>",), ("<|user|>", "<|assistant|>", "<|system|>")),
}
# How each style is used: thoughts of earlier turns are dropped, so that only last answers can be trained.
CHATS = {style: ChatConfig(train_on="last" if style == "thinking" else "all") for style in STYLES}
WORDS = r" ?[\p{L}\p{N}]+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def chat_tokenizer(style: str) -> Any:
    """Return a tokenizer of bytes with the chat template of a style: <|endoftext|> is 0, <s> is 1."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template, special, others = STYLES[style]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: i for i, text in enumerate(["<|endoftext|>", "<s>", *letters])}
    merges = []
    for pair in ("th", "he", "Ġa", "Ċ Ċ", "in", "Ġ w"):
        one, other = pair.split(" ") if " " in pair else (pair[0], pair[1:])
        merges.append((one, other))
        vocabulary[one + other] = len(vocabulary)
    own = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    own.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<|endoftext|>", bos_token="<s>", pad_token="<|endoftext|>",
        name_or_path=f"tiny-{style}",
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in others])
    tokenizer.chat_template = template
    return tokenizer


@cache
def chat_model(style: str, family: str) -> PreTrainedModel:
    """Return a family's tiny seeded model with as many ids as a style's tokenizer; its matrices as in `family_base`."""
    config = family_config(family)
    config.vocab_size = len(chat_tokenizer(style))
    with forked_random():
        torch.manual_seed(0)
        model = build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    model.generation_config = GenerationConfig(eos_token_id=[0, 1])
    return model


def chat_base(style: str, family: str) -> Base:
    """Return a family's tiny model with a style's tokenizer, on the CPU in fp32, the same at every call."""
    model, form = deepcopy(chat_model(style, family)), ChatForm(chat_tokenizer(style), CHATS[style])
    fuse(model, torch.device("cpu"))
    stops = frozenset({form.end_id, 1})
    device = torch.device("cpu")
    return Base(model, form.tokenizer, device, "fp32", head_alone=is_head_alone(model), stops=stops)


@cache
def chat_rows(style: str) -> tuple[Tokens, ...]:
    """Return three conversations as rows of a style: one of two answers, if the style can train both."""
    form = ChatForm(chat_tokenizer(style), CHATS[style])
    talk = Example("1", "Why?", "Because.", turns=(("user", "Who?"), ("assistant", "Me."), ("user", "Why?")))
    examples = [talk, Example("2", "the hen", "hen"), Example("3", "a long one\n" * 2, "one, long")]
    return tuple(encode(examples, form, 200, 4, "data.train"))


def save_chat_base(folder: Path, style: str, family: str = "llama") -> None:
    """Write a family's tiny model with a style's tokenizer into a folder."""
    with quiet():
        chat_model(style, family).save_pretrained(folder)
        chat_tokenizer(style).save_pretrained(folder)

"""Useful work: the least arithmetic that gives the same gradients, and what the machine's matrix products can do.

Real tokens only, target logits only, no weight gradient of a frozen weight, no backward pass below the lowest trained
parameter, the trunk of last layers once and for all (so not here). Of GPT-2 and Qwen3, in floating-point operations.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig

from bakeoff.compute.model.device import choose, native_precision, wait
from bakeoff.data.tokens import Tokens

CUBE, CUBE_ON_DEVICE = 2048, 8192  # a smaller one would measure how long a GPU takes to start
REPEATS = 8


def matrix_peak() -> float:
    """Return the FLOP/s of the best of some products of cubes in the precision that runs use here."""
    device = choose("auto")
    side = CUBE if device.type == "cpu" else CUBE_ON_DEVICE
    dtype = torch.bfloat16 if native_precision(device) == "bf16" else torch.float32
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    best = 0.0
    for _ in range(REPEATS):
        wait(device)
        start = time.perf_counter()
        a @ b
        wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


class Block(NamedTuple):
    """Sizes of a block: the weights of its linear maps and of those to queries, keys and values, and widths."""

    weights: int
    first: int
    attention: int  # the width of all heads
    lora: int  # inputs and outputs of the maps to queries, keys and values: LoRA has r weights for each


def block_of(config: PreTrainedConfig) -> Block:
    """Return the sizes of a block of GPT-2 or Qwen3."""
    width = config.hidden_size
    if config.model_type == "gpt2":
        return Block(12 * width**2, 3 * width**2, width, 4 * width)
    queries, keys = (config.head_dim * n for n in (config.num_attention_heads, config.num_key_value_heads))
    out = queries + 2 * keys
    return Block(width * (out + queries + 3 * config.intermediate_size), width * out, queries, 3 * width + out)


def useful_flops(method: dict[str, Any], config: PreTrainedConfig, rows: Sequence[Tokens]) -> float:
    """Return the FLOP of training once on the rows with one of the race's methods."""
    width, vocabulary, blocks = config.hidden_size, config.vocab_size, config.num_hidden_layers
    block, total = block_of(config), 0.0
    for row in rows:
        tokens = len(row) - 1 + method.get("num_virtual_tokens", 0)
        head = 2 * width * vocabulary * len(row.target)
        linear = 2 * block.weights * tokens
        attention = 2 * tokens**2 * block.attention  # scores and their use, below the diagonal
        first = 2 * block.first * tokens  # gradients of the lowest trained block's input, which nothing needs
        if method["method"] == "lora":
            update = 6 * method["r"] * block.lora * tokens
            total += 2 * head + blocks * (2 * linear + 3 * attention + update) - first
        elif method["method"] == "prompt_tuning":
            total += 2 * head + blocks * (2 * linear + 3 * attention)
        else:
            total += 3 * head + method["blocks"] * (3 * linear + 3 * attention) - first
    return total

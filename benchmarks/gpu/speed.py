"""Measures steps, decoding and attention on a GPU, against its own matrix peak where that says something."""

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch.nn.functional import scaled_dot_product_attention

from bakeoff.compute.decoding.batch import decoding
from bakeoff.compute.decoding.greedy import rows_at_once
from bakeoff.compute.model.base import Base, for_decoding
from bakeoff.compute.model.device import wait
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.training import compiled
from gpu.harness import (
    DEVICE,
    LORA,
    ON_CUDA,
    SHAPES,
    SMOKE,
    Found,
    adapted_base,
    check,
    clean,
    clock,
    failing,
    rows_of,
    time_steps,
    trainer_for,
)

KERNELS = ("cudnn", "flash", "efficient", "math")
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Of 32 heads: dtype, queries, keys, heads of keys and values, whether there is a mask.
CALLS = {
    "train bf16": (BF16, 300, 300, 8, False),
    "train fp16": (FP16, 300, 300, 8, False),
    "train fp32": (FP32, 300, 300, 32, False),
    "decode bf16": (BF16, 1, 301, 8, False),
    "decode fp32": (FP32, 1, 301, 32, False),
    "prefix or beginning bf16": (BF16, 100, 300, 32, True),
    "prefix or beginning fp32": (FP32, 100, 300, 32, True),
}


def kernel(dtype: torch.dtype, queries: int, keys: int, heads: int, masked: bool) -> str:
    """Return which kernel torch takes for an attention call."""
    query = torch.randn(8, 32, queries, 128, device=DEVICE, dtype=dtype)
    key, value = (torch.randn(8, heads, keys, 128, device=DEVICE, dtype=dtype) for _ in range(2))
    mask = torch.ones(8, 1, queries, keys, device=DEVICE, dtype=torch.bool) if masked else None
    causal = not masked and queries > 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=heads != 32)
    names = {event.key for event in profile.key_averages()}
    taken = (k for k in KERNELS if any(f"attention_{k}" in n or f"{k}_attention" in n for n in names))
    return next(taken, ", ".join(sorted(names)))


@check(20)
def attention_kernels() -> Found:
    """No kind of attention call takes the math kernel, which holds all scores in memory."""
    if not ON_CUDA:
        return {"skipped": "no CUDA"}
    found = {name: kernel(*call) for name, call in CALLS.items()}
    return {"kernels": found} | failing(no_math="math" not in found.values())


SHAPE_COST = """
import json, statistics, time, torch
from torch.nn.functional import scaled_dot_product_attention as attention
def seconds(length, queries, grad):
    q = torch.randn(8, 32, queries or length, 128, device="cuda", dtype=torch.bfloat16, requires_grad=grad)
    k, v = (torch.randn(8, 8, length, 128, device="cuda", dtype=torch.bfloat16, requires_grad=grad) for _ in range(2))
    torch.cuda.synchronize(); start = time.perf_counter()
    out = attention(q, k, v, is_causal=grad, enable_gqa=True)
    if grad: out.sum().backward()
    torch.cuda.synchronize(); return 1e3 * (time.perf_counter() - start)
found = {}
for name, queries, grad in (("training", 0, True), ("decoding", 1, False)):
    seconds(256, queries, grad)
    found[name] = {"new_ms": statistics.median(seconds(n, queries, grad) for n in range(301, 321)),
                   "known_ms": statistics.median(seconds(310, queries, grad) for _ in range(20))}
print(json.dumps(found))
"""


@check(30)
def price_of_a_new_length() -> Found:
    """Attention at a length that it has not seen, and at one that it has: with cuDNN first, and last."""
    if not ON_CUDA:
        return {"skipped": "no CUDA"}
    found: Found = {}
    for name, last in (("cudnn_first", "0"), ("cudnn_last", "1")):
        done = subprocess.run(
            [sys.executable, "-c", SHAPE_COST], capture_output=True, text=True, check=True, timeout=90,
            env=os.environ | {"TORCH_CUDNN_SDPA_DEPRIORITIZED": last},
        )  # fmt: skip
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_flops() -> float:
    """Return the multiplications and additions a second of a large bf16 product."""
    size = 256 if SMOKE else 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    return 2 * size**3 / clock(lambda: a @ b)


def useful_flops(shape: str, tokens: int, targets: int) -> float:
    """Return the least arithmetic of a LoRA step: forward, and backward to the inputs, of the frozen matrices."""
    s = SHAPES[shape]
    attention = s.width * s.head_width * (2 * s.heads + 2 * s.groups)
    weights = s.layers * (attention + 3 * s.width * s.inside)
    return 4 * weights * tokens + 4 * s.width * s.vocabulary * targets


@check(60)
def steps_of_a_small_base() -> Found:
    """Training steps of a 0.5B base in batches of 8 x 300, by method, and of LoRA in batches of 64."""
    methods = {
        "lora": LORA, "last_layers": {"method": "last_layers", "head": False}, "full": {"method": "full"},
        "prompt_tuning": {"method": "prompt_tuning", "prompt_tuning_init_text": "w5"},
    }  # fmt: skip
    found = {name: time_steps("0.5B", fields) for name, fields in methods.items()}
    return found | {"lora, batches of 64": time_steps("0.5B", LORA, batch=16 if SMOKE else 64, steps=4)}


@check(120)
def compiled_blocks() -> Found:
    """LoRA's steps on the 0.5B base with blocks as they are and compiled: seconds of the first, of others; losses."""
    compiled.BACKEND = "aot_eager" if SMOKE else compiled.BACKEND
    found: Found = {}
    rows = rows_of(8 * 24, 240, 60, SHAPES["0.5B"].vocabulary, spread=8)
    for name, wanted in (("plain", False), ("compiled", True)):
        base, adapted, method = adapted_base("0.5B", LORA)
        trainer, marks = trainer_for(base, adapted, method)
        start = time.perf_counter()
        with compiled.compiled_blocks(adapted, wanted):
            loss = trainer.train(rows, rows[:2]).validation_loss
        gaps = sorted(b - a for a, b in pairwise(marks[4:]))
        found[name] = {"loss": loss, "step_seconds": gaps[len(gaps) // 2], "first_seconds": marks[0] - start}
        del trainer, base, adapted
        clean()
    return found | failing(near=abs(found["compiled"]["loss"] / found["plain"]["loss"] - 1) < 1e-2)


@check(90)
def steps_of_a_large_base() -> Found:
    """Training steps of an 8B base with LoRA: 8 x 300 tokens with their share of the peak, and 2 x 8,000 tokens."""
    found: Found = {"8 x 300": time_steps("8B", LORA)}
    clean()
    long, target = (24, 8) if SMOKE else (8000, 60)
    found["2 x 8,000"] = time_steps("8B", LORA, steps=3, batch=2, prompt=long, target=target)
    clean()
    peak = peak_flops()
    useful = useful_flops("8B", 8 * 300, 8 * 61)
    share = useful / found["8 x 300"]["step_seconds"] / peak
    return found | {"peak_tflops": round(peak / 1e12, 1), "share_of_peak": round(share, 3)}


@check(20)
def casts_of_peft() -> Found:
    """LoRA's steps on the 0.5B base without PEFT's cast of every input to fp32, and whether losses keep their bits."""
    from bakeoff.compute.training.loss import evaluate_loss

    base, adapted, _ = adapted_base("0.5B", LORA)
    rows = rows_of(8, 240, 60)
    seconds, losses = {}, {}
    for name, casting in (("with", True), ("without", False)):
        with disable_input_dtype_casting(adapted, active=not casting):
            losses[name] = evaluate_loss(base, adapted, rows, 8)
            seconds[name] = round(clock(lambda: evaluate_loss(base, adapted, rows, 8)), 4)
    return {"seconds": seconds} | failing(equal_bits=losses["with"] == losses["without"])


def decode_steps(base: Base, adapted: Any, rows: int) -> Found:
    """Return the seconds of a prefill and the milliseconds of decoding steps of so many rows."""
    prompts = [row.prompt for row in rows_of(rows, 20 if SMOKE else 300, 1, SHAPES["8B"].vocabulary)]
    taken = []
    with torch.no_grad(), autocast(base):
        for step in range(14):
            wait(DEVICE)
            start = time.perf_counter()
            if step == 0:
                batch = decoding(base, adapted, prompts, 24)
            batch.append(batch.next_logits().argmax(-1))
            wait(DEVICE)
            taken.append(time.perf_counter() - start)
    steps = sorted(taken[3:])
    middle, slowest = (round(1e3 * seconds, 1) for seconds in (steps[len(steps) // 2], steps[-1]))
    return {"prefill_s": round(taken[0], 3), "step_ms": middle, "slowest_ms": slowest}


@check(60)
def decoding_of_a_large_base() -> Found:
    """Decoding steps of the 8B base with LoRA, by rows and precision; fp32 has the adapter merged."""
    base, adapted, _ = adapted_base("8B", LORA)
    adapted.requires_grad_(False).eval()
    found: Found = {}
    for precision, rows in (("bf16", (4, 8, 64, 256)), ("fp32", (4, 64))):  # fp32 comes last: it is made in place
        decoder = for_decoding(base, adapted, precision)
        found[f"{precision}: rows of 830 tokens at once"] = rows_at_once(decoder, 830)
        for count in (2, 4) if SMOKE else rows:
            found[f"{precision}, {count} rows"] = decode_steps(decoder, adapted, count)
        clean()
    return found


@check(75)
def side_by_side() -> Found:
    """One, two and four trainings of the 0.5B base on this device at once: tokens a second in all."""
    command = [sys.executable, "-m", "gpu.harness", *(["--smoke"] if SMOKE else [])]
    found: Found = {}
    for count in (1, 2) if SMOKE else (1, 2, 4):
        running = [
            subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        words = [process.communicate(timeout=200)[0].split() for process in running]
        found[str(count)] = sum(float(found[-1]) for found in words if found)
        if not all(words):
            return found | failing(all_ran=False)
    return found

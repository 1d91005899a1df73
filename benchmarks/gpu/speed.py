"""Measures steps, decoding and attention on a GPU, against its own matrix peak where that says something."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import AttentionInterface

from bakeoff.compute.decoding.batch import decoding
from bakeoff.compute.decoding.greedy import rows_at_once
from bakeoff.compute.model.base import DTYPES, Base, for_decoding
from bakeoff.compute.model.device import release, wait
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.training import compiled
from bakeoff.compute.training.loss import evaluate_loss
from gpu.harness import (
    DEVICE,
    HALF,
    LORA,
    ON_CUDA,
    SHAPES,
    SMOKE,
    Found,
    adapted_base,
    check,
    clock,
    failing,
    if_it_fits,
    make_base,
    rows_of,
    time_steps,
    trainer_for,
)

KERNELS = ("cudnn", "flash", "efficient", "math")
# Of 32 heads, of which four share keys and values: precision, queries, keys, whether there is a mask.
CALLS = {
    "train": (HALF, 300, 300, False),
    "train fp32": ("fp32", 300, 300, False),
    "decode": (HALF, 1, 301, False),
    "decode fp32": ("fp32", 1, 301, False),
    "prefix or beginning": (HALF, 100, 300, True),
    "prefix or beginning fp32": ("fp32", 100, 300, True),
}


def kernel(precision: str, queries: int, keys: int, masked: bool) -> str:
    """Return which kernel torch takes for an attention call of a base."""
    trains = queries > 1 and not masked
    query = torch.randn(8, 32, queries, 128, device=DEVICE, dtype=DTYPES[precision], requires_grad=trains)
    key, value = (torch.randn(8, 8, keys, 128, device=DEVICE, dtype=DTYPES[precision]) for _ in range(2))
    mask = torch.ones(8, 1, queries, keys, device=DEVICE, dtype=torch.bool) if masked else None
    module: Any = SimpleNamespace(num_key_value_groups=4, is_causal=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        AttentionInterface()["sdpa"](module, query, key, value, mask)
    names = {event.key for event in profile.key_averages()}
    taken = (k for k in KERNELS if any(f"attention_{k}" in n or f"{k}_attention" in n for n in names))
    return next(taken, ", ".join(sorted(names)))


@check(20)
def attention_kernels() -> Found:
    """No kind of attention call takes the math kernel, which holds all scores in memory."""
    if not ON_CUDA:
        return {"skipped": "no CUDA"}
    make_base("0.5B")  # its heads share keys and values: transformers has the attention of such a base from now on
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
    """Return the multiplications and additions a second of a large product in half precision."""
    size = 256 if SMOKE else 8192
    a, b = (torch.randn(size, size, dtype=DTYPES[HALF], device=DEVICE) for _ in range(2))
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
    found: Found = {name: if_it_fits(partial(time_steps, "0.5B", fields)) for name, fields in methods.items()}
    return found | {"lora, batches of 64": time_steps("0.5B", LORA, batch=16 if SMOKE else 64, steps=4)}


@check(120)
def compiled_blocks() -> Found:
    """LoRA's steps on the 0.5B base with blocks as they are and compiled: seconds of the first, of others; losses."""
    if not SMOKE and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return {"skipped": "no C compiler"}
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
        release(DEVICE)
    return found | failing(near=abs(found["compiled"]["loss"] / found["plain"]["loss"] - 1) < 1e-2)


@check(90, gigabytes=20)
def steps_of_a_large_base() -> Found:
    """Training steps of an 8B base with LoRA: 8 x 300 tokens with their share of the peak, and 2 x 8,000 tokens."""
    long, target = (24, 8) if SMOKE else (8000, 60)
    short = if_it_fits(partial(time_steps, "8B", LORA))
    found = {"8 x 300": short, "2 x 8,000": if_it_fits(partial(time_steps, "8B", LORA, 3, long, target, 2))}
    release(DEVICE)
    peak = peak_flops()
    found["peak_tflops"] = round(peak / 1e12, 1)
    if "step_seconds" in short:
        useful = useful_flops("8B", 8 * 300, 8 * 61)
        found["share_of_peak"] = round(useful / short["step_seconds"] / peak, 3)
    return found


@check(20)
def casts_of_peft() -> Found:
    """LoRA's steps on the 0.5B base without PEFT's cast of every input to fp32, and whether losses keep their bits."""
    base, adapted, _ = adapted_base("0.5B", LORA)
    rows = rows_of(8, 240, 60)
    seconds, losses = {}, {}
    for name, casting in (("with", True), ("without", False)):
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                layer.cast_input_dtype_enabled = casting
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


@check(60, gigabytes=20)
def decoding_of_a_large_base() -> Found:
    """Decoding steps of the 8B base with LoRA, by rows and precision; fp32 has the adapter merged."""
    base, adapted, _ = adapted_base("8B", LORA)
    adapted.requires_grad_(False).eval()

    def decode(precision: str, counts: tuple[int, ...]) -> Found:
        decoder = for_decoding(base, adapted, precision)
        found: Found = {"rows of 830 tokens at once": rows_at_once(decoder, 830)}
        for count in counts:
            found[f"{count} rows"] = if_it_fits(partial(decode_steps, decoder, adapted, count))
            release(DEVICE)
        return found

    half = decode(HALF, (2, 4) if SMOKE else (4, 8, 64, 256))
    return {HALF: half, "fp32": if_it_fits(partial(decode, "fp32", (2, 4) if SMOKE else (4, 64)))}  # made in place


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

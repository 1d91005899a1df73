"""Checks of processes and memory on a GPU: a whole bakeoff, hashing, loading, what is freed, and running out."""

import gc
import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import bakeoff
from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import DTYPES, Base, adapt, for_decoding, load_base
from bakeoff.compute.model.device import leave_out, peak_bytes, release, reset_peak, room
from bakeoff.compute.model.device import out_of_memory as recognised
from bakeoff.compute.run.checks import fingerprints
from bakeoff.compute.run.lender import Lender
from bakeoff.compute.run.resident import Wanted
from bakeoff.compute.training.ahead import Ahead
from bakeoff.compute.training.checkpoint import CheckpointWriter
from bakeoff.compute.training.fitting import SHARE
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.compute.training.trunk_cache import open_trunk
from bakeoff.config.machine import SafetyConfig
from bakeoff.config.sections import LATEST
from bakeoff.data.tokens import Tokens
from bakeoff.methods import Method, build_method
from gpu.harness import (
    DEVICE,
    HALF,
    ON_CUDA,
    SHAPES,
    Found,
    adapted_base,
    check,
    clock,
    failing,
    make_base,
    rows_of,
    trainer_for,
)


@check(60)
def whole_bakeoff() -> Found:
    """A small bakeoff runs to its end on the device, in processes of its own, and its adapter generates."""
    limits = {"train_limit": 16, "validation_limit": 4, "test_limit": 4}
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "data": {"source": "docstrings", **limits}, "entries": {"lora": {"learning_rate": 1e-3}}, "tune": "off",
            "baselines": ["base", "lead-1"], "protocol": {"epochs": 1, "max_tokens": 64, "seeds": 1},
            "generation": {"max_new_tokens": 4}, "machine": {"device": str(DEVICE)}, "output": f"{folder}/bakeoff",
        }  # fmt: skip
        results = bakeoff.run(config, display="none")
        outputs = results.best().load(device=str(DEVICE)).generate(["Return the sum of two numbers."])
        held = results.entries["lora"].checks | {"step0_beats_unigram": True}  # so few targets can be guessed
        failed = [name for name, holds in held.items() if not holds]
        used = results.document.environment["gpu"]
    return {"failed_checks": failed, "gpu": used} | failing(
        done=results.document.status == "done", checks=not failed, on_the_gpu=bool(used) == (DEVICE.type != "cpu"),
        generates=len(outputs) == 1,
    )  # fmt: skip


@check(30, gigabytes=20)
def hashing() -> Found:
    """How long the hash of every weight of an 8B base takes, computed where it lies."""
    base = make_base("8B")
    size = sum(weight.numel() * weight.element_size() for weight in base.model.parameters())
    start = time.perf_counter()
    fingerprints(base.model)
    return {"gb": round(size / 1e9, 1), "seconds": round(time.perf_counter() - start, 2)}


@check(20)
def loading() -> Found:
    """A 0.5B base that is loaded straight to the device is the one that went through the processor's memory."""
    base = make_base("0.5B")
    with tempfile.TemporaryDirectory() as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        seconds = round(clock(lambda: load_base(folder, HALF, device=DEVICE), repeats=2, warm=1), 2)
        straight = fingerprints(load_base(folder, HALF, device=DEVICE).model)
        moved = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[HALF]).to(DEVICE)
        same = set(straight.values()) == set(fingerprints(moved).values())
    return {"seconds": seconds} | failing(same=same)


@check(40)
def lent_base() -> Found:
    """A base that is lent to one method after the other: how long each waits for it, and that its loss stays."""
    rows, losses = rows_of(8, 200, 30), []
    with tempfile.TemporaryDirectory() as folder:
        base = make_base("0.5B")
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        del base
        lender, seconds, loads = Lender(DEVICE), list[float](), list[bool]()
        for fields in ({"method": "lora", "r": 16}, {"method": "last_layers"}, {"method": "prompt_tuning"}):
            start = time.perf_counter()
            lent, loaded = lender.lend(Wanted(folder, LATEST, (), HALF, "none", None))
            seconds.append(round(time.perf_counter() - start, 2))
            loads.append(loaded)
            losses.append(mean_loss(evaluate_loss(lent.base, lent.base.model, rows, 8)))
            method = build_method("x", {**fields, "learning_rate": 1e-3})
            trainer, _ = trainer_for(lent.base, adapt(lent.base, method), method)
            trainer.train(rows, rows[:2])
            lender.settle(trainer.adapted)
            del trainer, lent
        leave_out(DEVICE, 0)  # else the peaks of the checks after this one would lack what it held
    return {"seconds": seconds, "loaded": loads} | failing(
        loaded_once=loads == [True, False, False], same=len(set(losses)) == 1
    )


@check(20, gigabytes=12)
def freed_before_evaluation() -> Found:
    """After a training nothing of its model is left on the device, though its checkpoint writer knows its trainer."""
    if not ON_CUDA:
        return {"skipped": "no CUDA"}

    def train() -> int:
        base, adapted, method = adapted_base("0.5B", {"method": "full"})
        rows = rows_of(16, 100, 20)
        trainer, _ = trainer_for(base, adapted, method)
        with tempfile.TemporaryDirectory() as folder:
            writer = CheckpointWriter(Path(folder), SafetyConfig(), lambda trainer: {"step": trainer.at.step}, bool)
            trainer.keep = writer.after_step
            trainer.train(rows, rows[:2])
        return torch.cuda.memory_allocated()

    before = torch.cuda.memory_allocated()
    training = train() - before
    gc.collect()
    left = torch.cuda.memory_allocated() - before  # cuBLAS keeps some 100 MB that it works in
    found = {"training_gb": round(training / 1e9, 2), "left_gb": round(left / 1e9, 2)}
    return found | failing(gone=left < training / 20)


def step_of(base: Base, adapted: Any, method: Method, rows: list[Tokens]) -> tuple[float, int]:
    """Return the loss of a batch of these rows, and how many of them went through the model at once in the end."""
    trainer, _ = trainer_for(base, adapted, method, batch=len(rows))
    trainer.batches = Ahead(base, rows)
    loss = sum(float(part.sum()) for part in trainer._backward(list(range(len(rows)))))
    trainer.optimizer.zero_grad()
    return loss, trainer.at.micro_batch


@check(25)
def out_of_memory() -> Found:
    """A step that does not fit is taken in halves, with the loss of the whole; errors of other libraries are known."""
    errors = {
        "allocator": torch.OutOfMemoryError("CUDA out of memory."),
        "driver": RuntimeError("CUDA error: out of memory"),
        "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    }
    known = {name: recognised(error) for name, error in errors.items()}
    found: Found = {"recognised": known}
    if ON_CUDA:
        rows = rows_of(32, 1500, 100)
        given = (*adapted_base("0.5B", {"method": "lora", "r": 8}), rows)
        reset_peak(DEVICE)
        loss, most = step_of(*given)
        used, (_, total) = peak_bytes(DEVICE), torch.cuda.mem_get_info()
        release(DEVICE)
        torch.cuda.set_per_process_memory_fraction(0.5 * used / total)
        try:
            in_parts, fewer = step_of(*given)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        found |= {"losses": [loss, in_parts], "rows_at_once": [most, fewer]}
        if fewer >= most or abs(in_parts / loss - 1) > 1e-3:
            return found | failing(halves_with_the_same_loss=False)
    return found | failing(recognised=all(known.values()))


@check(25)
def parts_that_fit() -> Found:
    """A batch too large for a share of the memory is computed in parts that fit it, without running out even once."""
    if not ON_CUDA:
        return {"skipped": "no CUDA"}
    rows = rows_of(32, 1500, 100)
    members, longest = list(range(len(rows))), max(map(len, rows))
    base, adapted, method = adapted_base("0.5B", {"method": "lora", "r": 8})
    trainer, _ = trainer_for(base, adapted, method, batch=len(rows))
    trainer.batches = Ahead(base, rows)
    trainer._fit(members)
    fits, used, (_, total) = trainer.at.positions or 1, torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
    trainer.at.positions = min(len(rows) // 4, fits // longest) * longest
    foretold = min(SHARE * total - used, room(DEVICE)) / fits * trainer.at.positions
    reset_peak(DEVICE)
    trainer._backward(members)
    taken = peak_bytes(DEVICE) - used
    return {"positions": fits, "foretold_gb": round(foretold / 1e9, 2), "taken_gb": round(taken / 1e9, 2)} | failing(
        foretold=0.5 * foretold < taken < 1.1 * foretold, whole=trainer.at.micro_batch == len(rows)
    )


@check(25)
def trunk() -> Found:
    """A stored trunk gives the whole model's loss; how long a batch of it takes to come, and one of the 8B base."""
    base, adapted, _ = adapted_base("0.5B", {"method": "last_layers", "head": False})
    rows = rows_of(64, 200, 40, spread=80)
    with tempfile.TemporaryDirectory() as folder:
        stored = open_trunk(base, adapted, rows, Path(folder) / "train", None, 16)
        read = clock(lambda: stored.read(range(8)), repeats=20) if stored else None
    block = torch.zeros(8, 300, SHAPES["8B"].width, dtype=torch.bfloat16)
    found: Found = {"read_ms": read and round(1e3 * read, 2)}
    found["8B batch, ms"] = round(1e3 * clock(lambda: block.to(DEVICE), repeats=20), 2)
    if ON_CUDA:
        pinned = block.pin_memory()
        found["8B batch, pinned, ms"] = round(1e3 * clock(lambda: pinned.to(DEVICE, non_blocking=True), repeats=20), 2)
    return found | failing(stored=stored is not None)


@check(40)
def packed_base() -> Found:
    """A base in four bits: the peak of its loading, that hashing leaves it as it is, and outputs alone and together."""
    if find_spec("bitsandbytes") is None:
        return {"skipped": "no bitsandbytes"}
    base = make_base("0.5B")
    rows = rows_of(8, 200, 30)
    with tempfile.TemporaryDirectory() as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        del base
        reset_peak(DEVICE)
        packed = load_base(folder, HALF, quantize="nf4", device=DEVICE)
        peak = peak_bytes(DEVICE)
    before = mean_loss(evaluate_loss(packed, packed.model, rows, 8))
    fingerprints(packed.model)
    after = mean_loss(evaluate_loss(packed, packed.model, rows, 8))
    decoder: Any = for_decoding(packed, packed.model, "fp32")
    alone, together = (generate(decoder, packed.model, [row.prompt for row in rows], 8, size) for size in (1, 8))
    differing = sum(a != b for a, b in zip(alone, together, strict=True))
    found = {"loading_peak_gb": round(peak / 1e9, 2), "outputs_that_differ": differing}
    return json.loads(json.dumps(found)) | failing(hashing_leaves_it=before == after)

"""Checks that a GPU computes what the CPU does, and keeps what a run promises: reloads, resumed trainings, outputs."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import DTYPES, Base, adapt, for_decoding, load_base, load_tokenizer, trainable
from bakeoff.compute.model.device import CPU, release
from bakeoff.compute.run.checks import RELOAD_TOLERANCE, equals_base, fingerprints, start_tolerance
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.loss import batch_of, evaluate_loss, mean_loss, target_losses
from bakeoff.methods import build_method
from bakeoff.testing.families import ROWS, family_base
from gpu.harness import DEVICE, HALF, SMOKE, Found, adapted_base, check, failing, rows_of, trainer_for

PROMPT = {"num_virtual_tokens": 3, "prompt_tuning_init_text": "w5 w6"}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4}, "dora": {"r": 4}, "prompt_tuning": PROMPT, "prefix_tuning": PROMPT, "last_layers": {}, "full": {},
    "ia3": {}, "layer_norm": {}, "adalora": {"init_r": 4, "target_r": 2}, "loha": {"r": 2},
    "fourierft": {"n_frequency": 50},
}  # fmt: skip
BOUNDS = {"fp32": 2e-4, HALF: 5e-2}  # relative, of a loss; gradients may be 40 times as far off


def base_on(device: torch.device, family: str, precision: str) -> Base:
    """Return a family's tiny base on a device."""
    base = family_base(family)
    base.model.to(device, DTYPES[precision])
    return replace(base, device=device, precision=precision)


def loss_and_gradients(
    family: str, fields: dict[str, Any], device: torch.device, precision: str
) -> tuple[float, torch.Tensor]:
    """Return the mean loss of a batch, without dropout, and all gradients in a row on the CPU."""
    base = base_on(device, family, precision)
    torch.manual_seed(0)
    adapted = adapt(base, build_method("x", fields))
    for module in adapted.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(2)
    weights = trainable(adapted).values()
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn(weight.shape).to(device) * 0.02)
    losses = target_losses(base, adapted, batch_of(base, ROWS))
    losses.mean().backward()
    gradients = torch.cat([w.grad.float().cpu().flatten() for w in weights if w.grad is not None])
    return float(losses.detach().mean()), gradients


@check(30)
def same_as_on_the_cpu() -> Found:
    """Losses and gradients of every kind of method are near the CPU's in fp32."""
    worst, wrong = dict.fromkeys(BOUNDS, 0.0), []
    for family in ("gpt2", "llama", "gemma2", "t5", "bart"):
        for name, fields in METHODS.items():
            if (family, name) == ("gpt2", "loha"):  # PEFT has it not for Conv1D
                continue
            exact, slopes = loss_and_gradients(family, {"method": name, **fields}, CPU, "fp32")
            for precision, bound in BOUNDS.items():
                loss, found = loss_and_gradients(family, {"method": name, **fields}, DEVICE, precision)
                error, slope = abs(loss / exact - 1), float((found - slopes).norm() / (slopes.norm() + 1e-12))
                worst[precision] = max(worst[precision], error)
                if error > bound or slope > 40 * bound:
                    wrong.append((family, name, precision, error, slope))
    return {"worst": worst, "wrong": wrong} | failing(near_the_cpu=not wrong)


def start_and_reload(family: str, precision: str, fields: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return what is wrong with a method's start, its reloaded adapter and the hashes of its weights."""
    base, method = base_on(DEVICE, family, precision), build_method("x", fields)
    before = mean_loss(evaluate_loss(base, base.model, ROWS, 3))
    adapted = adapt(base, method)
    after = mean_loss(evaluate_loss(base, adapted, ROWS, 3))
    with tempfile.TemporaryDirectory() as folder:
        method.save(adapted, Path(folder))
        fresh = base_on(DEVICE, family, precision)
        loaded = method.load(fresh.model, Path(folder)).to(DEVICE).eval()
        again = mean_loss(evaluate_loss(fresh, loaded, ROWS, 3))
    found = {
        "start": method.starts_exactly(precision) and equals_base(before, after, start_tolerance(base)) is not None,
        "reload": abs(again / after - 1) > RELOAD_TOLERANCE,
        "hashes": fingerprints(adapted) != fingerprints(adapted),
    }
    return [(family, precision, method.name, what, before, after, again) for what, is_so in found.items() if is_so]


@check(30)
def starts_and_reloads() -> Found:
    """A start equals the base as runs check it, a saved adapter has its loss to 1e-6, and hashing changes nothing."""
    methods = {"lora": {"r": 4}, "ia3": {}, "layer_norm": {}, "last_layers": {}, "vera": {"r": 4}}
    wrong = [
        fault
        for family in ("gpt2", "llama", "gemma3")
        for precision in BOUNDS
        for name, fields in methods.items()
        for fault in start_and_reload(family, precision, {"method": name, **fields})
    ]
    return {"wrong": wrong} | failing(exact=not wrong)


def ten_steps(folder: Path | None = None, until: int | None = None) -> torch.Tensor:
    """Return all trained weights after ten steps, or `until` one; from the folder's checkpoint if there is one."""
    base, adapted, method = adapted_base("0.5B", {"method": "lora", "r": 8, "lora_dropout": 0.1})
    rows = rows_of(80, 200, 30, spread=60)
    trainer, _ = trainer_for(base, adapted, method)
    trainer.rungs = (5,)
    if folder and until is None:
        load_newest(folder, trainer)
    trainer.train(rows, rows[:4], until)
    if folder and until:
        save_checkpoint(folder, trainer, {})
    return torch.cat([weight.detach().flatten().cpu() for weight in trainable(adapted).values()])


def farthest() -> dict[str, float]:
    """Return how far a training is from the same again, and from one that stopped and resumed halfway."""
    whole, again = ten_steps(), ten_steps()
    release(DEVICE)
    with tempfile.TemporaryDirectory() as folder:
        ten_steps(Path(folder), 5)
        resumed = ten_steps(Path(folder))
    return {name: float((whole - other).abs().max()) for name, other in (("again", again), ("resumed", resumed))}


def deterministic(function: Callable[[], Any]) -> Any:
    """Return what a function returns under torch's deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    try:
        return function()
    finally:
        torch.use_deterministic_algorithms(False)


@check(25)
def resumes_bit_for_bit() -> Found:
    """With deterministic algorithms a resumed training is the uninterrupted one; without, how far they are apart."""
    found = {"plain": farthest(), "deterministic": deterministic(farthest)}
    return found | failing(deterministic_is_bit_for_bit=not any(found["deterministic"].values()))


@check(25)
def batch_mates() -> Found:
    """Greedy outputs of the embedded base in fp32 are those of a batch of one; how many differ in half precision."""
    text = " ".join(Path(os.__file__).read_text().split())
    words = load_tokenizer("base")(text, add_special_tokens=False)["input_ids"]
    count, differing = 4 if SMOKE else 64, {}
    prompts = [words[i * 97 : i * 97 + 40 + i % 50] for i in range(count)]
    for precision in BOUNDS:
        base = load_base("base", precision, device=DEVICE)
        decoder = for_decoding(base, base.model, precision)
        alone, together = (generate(decoder, base.model, prompts, 24, size) for size in (1, 32))
        differing[precision] = sum(a != b for a, b in zip(alone, together, strict=True))
    return {"differing": differing, "of": count} | failing(fp32_independent=differing["fp32"] == 0)

"""The serving engine alone, without HTTP: `python benchmarks/serving_engine.py [--rounds N] [--model FOLDER]`.

The same requests (seeded prompts, outputs of one length) go through one engine: all to the base, spread over eight LoRA
adapters, and spread over five methods; and through transformers' own generate, one request after the other. All of it
is in one process, in turns, and in processor seconds of one thread, so that ratios hold on a machine that others use.
Also: what loading an adapter takes, what a resident adapter adds to a first token, and how many steps a short request
waits for its first token while a long prompt is read and others decode. Adapters are random small changes.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.model.adapter_files import save_adapter
from bakeoff.compute.model.base import Base, adapt, load_base, trainable
from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.request import Request
from bakeoff.config.loading import load_config
from bakeoff.methods import build_method

ROWS, REQUESTS, OUTPUT = 16, 32, 48
FEW = 8  # of the requests, for who takes them one after the other
PROMPT = (40, 200)  # tokens
FIVE = ("lora", "ia3", "prompt_tuning", "last_layers", "dora")
NOBODY: frozenset[int] = frozenset()  # no id ends an output: all have one length


def prompts_of(base: Base, count: int, lengths: tuple[int, int] = PROMPT) -> list[list[int]]:
    """Return seeded prompts of ids all over the vocabulary."""
    chosen, ids = random.Random(0), range(10, base.model.get_input_embeddings().weight.shape[0])
    return [chosen.choices(ids, k=chosen.randint(*lengths)) for _ in range(count)]


def write_adapter(folder: Path, model: str, name: str, seed: int) -> Path:
    """Write an adapter of a method with random weights, as a run writes one."""
    method = build_method(name, {"method": name})
    torch.manual_seed(seed)
    adapted = adapt(load_base(model, "fp32"), method)
    with torch.no_grad():
        for weight in trainable(adapted).values():
            weight.add_(0.02 * torch.randn_like(weight))
    save_adapter(folder, adapted, method, load_config({"model": model, "data": "docstrings", "entries": [name]}))
    return folder


def served(engine: Engine, prompts: Sequence[Sequence[int]], names: Sequence[str | None]) -> dict[int, list[int]]:
    """Send all prompts at once, in turns to these entries; return the outputs."""
    outputs: dict[int, list[int]] = {
        engine.submit(names[place % len(names)], Request(prompt, OUTPUT, NOBODY)): []
        for place, prompt in enumerate(prompts)
    }
    while engine.rows:
        for event in engine.step():
            outputs[event.row] += [] if event.token is None else [event.token]
    return outputs


def generated(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Let transformers' generate continue the prompts one after the other."""
    for prompt in prompts:
        ids = torch.tensor([[*prompt]])
        with torch.no_grad():
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=OUTPUT,
                min_new_tokens=OUTPUT, pad_token_id=0, use_cache=True,
            )  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    """Return the processor seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def steps_to_first_token(engine: Engine, long: Sequence[int], short: Sequence[int]) -> int:
    """Return how many steps a short request waits while 14 rows decode and a long prompt is read."""
    for prompt in prompts_of(engine.lanes.base.base, ROWS - 2, (8, 16)):
        engine.submit(None, Request(prompt, 4 * OUTPUT, NOBODY))
    while engine.running < ROWS - 2 or any(not row.written for row in engine.rows.values()):
        engine.step()
    engine.submit(None, Request(long, 4, NOBODY))
    row = engine.submit(None, Request(short, 4, NOBODY))
    steps = 1
    while all(event.row != row for event in engine.step()):
        steps += 1
    for left in [*engine.rows]:
        engine.cancel(left)
    engine.step()
    return steps


def measure(model: str, rounds: int, place: Path) -> dict[str, Any]:
    """Return all figures for a base."""
    folders = {f"lora{i}": write_adapter(place / f"lora{i}", model, "lora", i) for i in range(8)}
    folders |= {name: write_adapter(place / name, model, name, 9) for name in FIVE}
    plain, base = load_base(model, "fp32"), conforming(load_base(model, "fp32"))[0]
    engine = Engine(base, max_rows=ROWS)
    loads = [seconds(lambda name=name: engine.load(name, folders[name])) for name in folders]  # type: ignore[misc]
    prompts = prompts_of(base, REQUESTS)
    ways: dict[str, Callable[[], Any]] = {
        "base": lambda: served(engine, prompts, [None]),
        "eight lora": lambda: served(engine, prompts, [f"lora{i}" for i in range(8)]),
        "five methods": lambda: served(engine, prompts, FIVE),
        "generate": lambda: generated(plain.model, prompts[:FEW]),
        "one lora, one token": lambda: first_tokens(engine, prompts, ["lora0"]),
        "two loras in turns, one token": lambda: first_tokens(engine, prompts, ["lora0", "lora1"]),
    }
    for work in ways.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(seconds(work))
    ratio = {
        name: statistics.median(b / s for b, s in zip(taken["base"], own, strict=True)) for name, own in taken.items()
    }
    swaps = zip(taken["one lora, one token"], taken["two loras in turns, one token"], strict=True)
    context = base.model.config.max_position_embeddings
    return {
        "tokens per second, base": REQUESTS * OUTPUT / statistics.median(taken["base"]),
        "eight LoRA adapters, of the base's": ratio["eight lora"],
        "five methods, of the base's": ratio["five methods"],
        "base, times generate one by one": REQUESTS / FEW / ratio["generate"],
        "ms to load from disk, median": 1e3 * statistics.median(loads),
        "ms added to a first token by a swap": 1e3 * statistics.median((b - a) / REQUESTS for a, b in swaps),
        "steps to a short request's first token": steps_to_first_token(
            engine, prompts_of(base, 1, (context - 99,) * 2)[0], prompts[0][:8]
        ),
    }


def first_tokens(engine: Engine, prompts: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Ask for one token after the other, in turns from these entries."""
    for place, prompt in enumerate(prompts):
        engine.submit(names[place % len(names)], Request(prompt[:40], 1, NOBODY))
        while engine.rows:
            engine.step()


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="base", metavar="FOLDER", help="`base` is the embedded one")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for name, figure in measure(asked.model, asked.rounds, Path(place)).items():
            print(f"{name}: {figure:.3g}")


if __name__ == "__main__":
    main()

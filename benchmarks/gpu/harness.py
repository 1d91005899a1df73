"""What the GPU's checks share: their register, random bases of real shapes, examples, clocks and training steps."""

import random
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import transformers

from bakeoff.compute.model.base import DTYPES, Base, adapt
from bakeoff.compute.model.device import choose, out_of_memory, peak_bytes, release, reset_peak, wait
from bakeoff.compute.model.kernels import fuse
from bakeoff.compute.model.precision import multiplies_fp16
from bakeoff.compute.training.loop import Trainer
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import Method, build_method
from bakeoff.testing.families import tokenizer

SMOKE = "--smoke" in sys.argv
DEVICE = choose("cpu" if SMOKE else "auto")
ON_CUDA = DEVICE.type == "cuda"
HALF = "fp16" if ON_CUDA and multiplies_fp16(DEVICE) else "bf16"  # what large bases run in there
LORA = {"method": "lora", "r": 16}


class Shape(NamedTuple):
    """Sizes of a Qwen3 model."""

    layers: int
    width: int
    heads: int
    groups: int  # of keys and values
    head_width: int
    inside: int  # of the feed-forward layers
    vocabulary: int


SHAPES = {
    "0.5B": Shape(24, 896, 14, 2, 64, 4864, 151936),  # Qwen2.5-0.5B
    "8B": Shape(36, 4096, 32, 8, 128, 12288, 151936),  # Qwen3-8B
}
if SMOKE:
    SHAPES = dict.fromkeys(SHAPES, Shape(2, 64, 4, 2, 16, 96, 500))

Found = dict[str, Any]


class Check(NamedTuple):
    """A check: it returns what it found, under `failed` the names of what does not hold."""

    seconds: float
    gigabytes: float  # of memory that the device must have
    run: Callable[[], Found]


CHECKS: dict[str, Check] = {}


def check(seconds: float, gigabytes: float = 0) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Register a check that may take so many seconds on a data-centre GPU, and needs so much memory on any."""

    def add(function: Callable[[], Found]) -> Callable[[], Found]:
        CHECKS[function.__name__] = Check(seconds, 0 if SMOKE else gigabytes, function)
        return function

    return add


def if_it_fits(measure: Callable[[], Found]) -> Found:
    """Return what is measured; that it does not fit is no fault, and said."""
    try:
        return measure()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    return {"skipped": "does not fit"}


def failing(**held: bool) -> Found:
    """Return under `failed` the names of the conditions that do not hold; nothing if all hold."""
    wrong = [name for name, holds in held.items() if not holds]
    return {"failed": wrong} if wrong else {}


def clock(function: Callable[[], Any], repeats: int = 5, warm: int = 2) -> float:
    """Return the median seconds of a call, with the device waited for."""
    taken = []
    for _ in range(warm + repeats):
        wait(DEVICE)
        start = time.perf_counter()
        function()
        wait(DEVICE)
        taken.append(time.perf_counter() - start)
    return sorted(taken[warm:])[repeats // 2]


def make_base(shape: str, precision: str = HALF) -> Base:
    """Return a random base of a shape, made on the device: no file, no copy."""
    sizes = SHAPES[shape]
    config = transformers.Qwen3Config(
        num_hidden_layers=sizes.layers, hidden_size=sizes.width, num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.groups, head_dim=sizes.head_width, intermediate_size=sizes.inside,
        vocab_size=sizes.vocabulary, max_position_embeddings=32768, tie_word_embeddings=shape == "0.5B",
        eos_token_id=0, bos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision])
    fuse(model, DEVICE)
    return Base(model.eval(), tokenizer(), DEVICE, precision, head_alone=True)


def adapted_base(shape: str, fields: Mapping[str, Any], precision: str = HALF) -> tuple[Base, Any, Method]:
    """Return a base of a shape, adapted by a method, and the method."""
    base, method = make_base(shape, precision), build_method("x", {**fields})
    torch.manual_seed(1)
    return base, adapt(base, method), method


def rows_of(count: int, prompt: int, target: int, vocabulary: int = 400, spread: int = 0) -> list[Tokens]:
    """Return random examples: prompts of `prompt` tokens and up to `spread` more, targets of `target` and an end."""
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(length)]

    return [Tokens(ids(prompt + draw.randint(0, spread)), [*ids(target), 0]) for _ in range(count)]


def trainer_for(base: Base, adapted: Any, method: Method, batch: int = 8) -> tuple[Trainer, list[float]]:
    """Return a trainer for one epoch, and the list to which it adds the time of each step's end."""
    marks: list[float] = []

    def report(kind: str, _: Mapping[str, Any]) -> None:
        if kind == "progress":
            marks.append(time.perf_counter())

    protocol = ProtocolConfig(epochs=1, batch_size=batch, trunk_cache="off")
    return Trainer(base, adapted, method, protocol, 0, report), marks


def time_steps(
    shape: str, fields: Mapping[str, Any], steps: int = 6, prompt: int = 240, target: int = 60, batch: int = 8
) -> Found:
    """Return the median seconds of a training step in bf16 or fp16, its tokens a second, and the peak."""
    release(DEVICE)  # of the steps before, which may be in circles
    base, adapted, method = adapted_base(shape, fields)
    rows = rows_of(batch * steps, prompt, target, SHAPES[shape].vocabulary)
    trainer, marks = trainer_for(base, adapted, method, batch)
    reset_peak(DEVICE)
    trainer.train(rows, rows[:2])
    gaps = sorted(b - a for a, b in pairwise(marks))
    seconds = gaps[len(gaps) // 2]
    tokens = round(batch * (prompt + target) / seconds)
    return {"step_seconds": round(seconds, 4), "tokens/s": tokens, "peak_gb": round(peak_bytes(DEVICE) / 1e9, 2)}


def main() -> None:
    """Print the tokens a second of training steps on the small shape: one of several processes side by side."""
    print(time_steps("0.5B", LORA, steps=4 if SMOKE else 40)["tokens/s"])


if __name__ == "__main__":
    main()

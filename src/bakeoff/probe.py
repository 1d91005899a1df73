"""A probe: what an entry's steps, reading and decoding cost on this device, measured on the longest examples.

`python -m bakeoff.probe FOLDER` reads {"entry", "method", "settings"} on standard input and prints what it measured as
JSON. The folder holds a config and tokens, as a plan leaves them. It is a process of its own so that its peak is its
own, and so that a probe that does not fit ends nothing else.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bakeoff.config import load_config
from bakeoff.data.tokens import StoredTokens, Tokens, load_tokens
from bakeoff.evaluation.generation import generate
from bakeoff.measure import out_of_memory, peak_bytes, reset_peak
from bakeoff.methods import build_method
from bakeoff.model import adapt, for_decoding, load_base
from bakeoff.records import Folder
from bakeoff.training.loop import Trainer
from bakeoff.training.loss import evaluate_loss

STEPS = 3  # the first warms up
WRITTEN = 16  # tokens decoded


@dataclass
class Probe:
    """What was measured; `tokens` are those of one step, padding included. `error`: why nothing was."""

    error: str | None = None
    setup_seconds: float = 0
    step_seconds: float = 0
    tokens: int = 0
    evaluation_seconds: float = 0
    evaluated_tokens: int = 0
    generation_seconds: float = 0
    generated_tokens: int = 0
    peak_bytes: int = 0


def longest(rows: StoredTokens, count: int) -> list[Tokens]:
    """Return the `count` longest rows, the longest first."""
    order = rows.lengths.totals.argsort(kind="stable")[::-1]
    return [rows[i] for i in order[:count].tolist()]


def measure(folder: Folder, entry: str, method_name: str, settings: dict[str, object]) -> Probe:
    """Return what an entry costs: some steps on its longest batch, reading as many examples, and decoding."""
    config = load_config(folder.config_file)
    protocol = config.protocol.model_copy(
        update={"epochs": STEPS, "evaluate_every": None, "patience": None, "trunk_cache": "off"}
    )
    found = Probe()
    start = time.perf_counter()
    base = load_base(config.model, config.protocol.precision, config.pin)
    method = build_method(entry, {**settings, "method": method_name})
    adapted = adapt(base, method, protocol.gradient_checkpointing)
    found.setup_seconds = time.perf_counter() - start
    batch = longest(load_tokens(folder.tokens_file("train")), protocol.batch_size)
    found.tokens = found.evaluated_tokens = len(batch) * len(batch[0])
    curve: list[float] = []

    def report(kind: str, values: dict[str, float]) -> None:
        if kind == "metrics":
            curve.append(values["seconds"])

    reset_peak()
    trainer = Trainer(base, adapted, method, protocol, protocol.seed, report)
    trainer.train(batch, batch[:1])
    found.step_seconds = curve[-1] - curve[-2]
    found.peak_bytes = peak_bytes()
    del trainer
    start = time.perf_counter()
    evaluate_loss(base, adapted, batch, 2 * protocol.batch_size)
    found.evaluation_seconds = time.perf_counter() - start
    prompts = [row.prompt for row in longest(load_tokens(folder.tokens_file("test")), config.generation.batch_size)]
    decoder = for_decoding(base, adapted, config.generation.precision)
    start = time.perf_counter()
    generate(decoder, adapted, prompts, WRITTEN, config.generation.batch_size)
    found.generation_seconds, found.generated_tokens = time.perf_counter() - start, len(prompts) * WRITTEN
    return found


def main() -> None:
    """Probe what standard input asks for."""
    asked = json.loads(sys.stdin.read())
    try:
        found = measure(Folder(Path(sys.argv[1])), asked["entry"], asked["method"], asked["settings"])
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        found = Probe(error="no memory left")
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()

"""A probe: measures an entry's steps, reading and decoding on this device, with the longest examples.

`python -m bakeoff.compute.run.profile FOLDER` reads {"entry", "method", "settings", "precision", "decoding",
"quantize", "device"} from standard input and prints its measurements as JSON. The folder has a config and tokens, as a
plan writes them. The probe has its own process so that its memory peak is its own, and so that running out of memory
ends nothing else.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from bakeoff.compute.decoding import batch as decoded
from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.decoding.greedy import reads_targets, rows_at_once
from bakeoff.compute.model.base import Base, adapt, for_decoding, load_base
from bakeoff.compute.model.device import Clocks, choose, out_of_memory, peak_bytes, reset_peak, set_rounding
from bakeoff.compute.model.forward import autocast
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, read_at_once, start
from bakeoff.config.loading import load_config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.token_file import StoredTokens, load_tokens
from bakeoff.data.tokens import Tokens
from bakeoff.methods import Method, build_method
from bakeoff.store.records import Quantize
from bakeoff.store.run_folder import Folder

STEPS = 3  # the first warms up
WRITTEN = 16  # tokens decoded after the first


@dataclass
class Probe:
    """What was measured; `tokens` are those of one step, including padding. `error` says why nothing was measured."""

    error: str | None = None
    load_seconds: float = 0  # of the base, which is loaded once for all runs that store it alike
    setup_seconds: float = 0  # of putting the method on it
    start_seconds: float = 0  # of a start that reads training examples
    step_seconds: float = 0
    tokens: int = 0
    evaluation_seconds: float = 0
    evaluated_tokens: int = 0
    prefill_seconds: float = 0  # of prompts' reading, which gives each its first token
    prefill_tokens: int = 0
    generation_seconds: float = 0  # of the tokens after it
    generated_tokens: int = 0
    peak_bytes: int = 0
    reads_targets: bool = False  # whether a test reads its prompts once, for the loss and for decoding


def longest(rows: StoredTokens, count: int) -> list[Tokens]:
    """Return the `count` longest rows, the longest first."""
    order = rows.lengths.totals.argsort(kind="stable")[::-1]
    return [rows[i] for i in order[:count].tolist()]


def to_decode(base: Base, rows: StoredTokens, batch_size: int | None) -> list[list[int]]:
    """Return the prompts of the first batch that is decoded, cut to one length so that outputs have room."""
    first = longest(rows, batch_size or rows_at_once(base, int(rows.lengths.totals.max())))
    length = max(1, min(min(len(row.prompt), len(row) - WRITTEN - 1) for row in first))
    return [row.prompt[:length] for row in first]


def measure(
    folder: Folder,
    entry: str,
    method: str,
    settings: dict[str, object],
    precision: str,
    decoding: str,
    quantize: Quantize,
    device: str,
) -> Probe:
    """Return what an entry costs: some steps on its longest batch, reading as many examples, and decoding.

    `decoding` is the precision of that, `device` is named as in `machine.device`.
    """
    config = load_config(folder.config_file)
    protocol = config.protocol.model_copy(
        update={"epochs": STEPS, "evaluate_every": None, "patience": None, "trunk_cache": "off"}
    )
    place = choose(device)
    set_rounding(config.protocol)
    probe, clocks = Probe(), Clocks(place)
    rows = load_tokens(folder.tokens_file("train"))
    with clocks.phase("load"):
        base, _ = conforming(load_base(config.model, precision, config.pin, quantize, place))
    with clocks.phase("setup"):
        built = build_method(entry, {**settings, "method": method})
        adapted = adapt(base, built, protocol.gradient_checkpointing)
    with clocks.phase("start"):
        start(base, adapted, built, rows, protocol.batch_size)
    batch = longest(rows, protocol.batch_size)
    probe.tokens = probe.evaluated_tokens = len(batch) * len(batch[0])
    reset_peak(place)
    probe.step_seconds = last_step_seconds(base, adapted, built, protocol, batch)
    probe.peak_bytes = peak_bytes(place)
    with clocks.phase("evaluation"):
        evaluate_loss(base, adapted, batch, 2 * protocol.batch_size, positions=read_at_once(base))
    probe.reads_targets = reads_targets(base, decoding)
    test = load_tokens(folder.tokens_file("test"))
    measure_decoding(probe, for_decoding(base, adapted, decoding), adapted, test, config.generation.batch_size, clocks)
    for phase, seconds in clocks.seconds.items():
        setattr(probe, f"{phase}_seconds", seconds)
    return probe


def last_step_seconds(
    base: Base, adapted: nn.Module, method: Method, protocol: ProtocolConfig, batch: Sequence[Tokens]
) -> float:
    """Train on one batch and return the seconds of the last step."""
    curve: list[float] = []

    def report(kind: str, values: dict[str, float]) -> None:
        if kind == "metrics":
            curve.append(values["seconds"])

    Trainer(base, adapted, method, protocol, protocol.seed, report).train(batch, batch[:1])
    return curve[-1] - curve[-2]


def measure_decoding(
    probe: Probe, base: Base, adapted: nn.Module, test: StoredTokens, batch_size: int | None, clocks: Clocks
) -> None:
    """Decode one batch of test prompts, after a first one that warms up."""
    prompts = to_decode(base, test, batch_size)
    decode(base, adapted, prompts[:1], Clocks())
    decode(base, adapted, prompts, clocks)
    probe.prefill_tokens = len(prompts) * max(map(len, prompts))
    probe.generated_tokens = len(prompts) * WRITTEN


@torch.no_grad()
def decode(base: Base, adapted: nn.Module, prompts: Sequence[Sequence[int]], clocks: Clocks) -> None:
    """Decode prompts together, past the ends of outputs; `clocks` time prefill and generation separately."""
    adapted.eval()
    with autocast(base):
        with clocks.phase("prefill"):
            batch = decoded.decoding(base, adapted, prompts, WRITTEN + 1)
            batch.append(batch.next_logits().argmax(-1))
        with clocks.phase("generation"):
            for _ in range(WRITTEN):
                batch.append(batch.next_logits().argmax(-1))


def main() -> None:
    """Probe what standard input asks for."""
    asked = json.loads(sys.stdin.read())
    try:
        probe = measure(Folder(Path(sys.argv[1])), **asked)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        probe = Probe(error="out of memory")
    print(json.dumps(asdict(probe)))


if __name__ == "__main__":
    main()

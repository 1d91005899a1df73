"""What every run needs: its folder, config, tokens, clocks and record, and a way to report progress."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.model.base import Base, count_parameters, load_base
from bakeoff.compute.model.device import Clocks, choose, peak_bytes, set_rounding
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.config.config import Config
from bakeoff.config.planned import planned_config
from bakeoff.data.examples import Example
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.data.tokens import Tokens, load_tokens
from bakeoff.errors import DivergedError
from bakeoff.hub import base_files
from bakeoff.scoring.baselines import FEW_SHOT
from bakeoff.store.content_hash import remember
from bakeoff.store.events import Emit, Note, Progress, event_of
from bakeoff.store.files import append_jsonl, read_jsonl
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import SPLITS, Folder, RunFolder

PROBE_EXAMPLES = 2  # enough to see whether two models are one
LIFE_SECONDS = 5.0


class Work:
    """A running run."""

    def __init__(self, folder: Folder, run: Run, emit: Emit, stop_requested: Callable[[], bool]):
        self.folder, self.run, self.emit, self.stop_requested = folder, run, emit, stop_requested
        self.files: RunFolder = folder.run(run.id)
        self.plan = folder.plan()
        self.config: Config = planned_config(folder, self.plan)
        files = base_files(self.config.model, self.config.pin)
        remember(files, self.plan.model.files, self.plan.model.weights)
        assert self.plan.output_tokens is not None  # a stored plan has it
        self.output_tokens = self.plan.output_tokens
        self.indented = INDENT in self.plan.texts
        self.tokens: dict[str, Sequence[Tokens]] = {s: load_tokens(folder.tokens_file(s)) for s in SPLITS}
        self.test_file = folder.examples_file("test")
        self.few_shot = run.kind == "baseline" and run.entry.startswith(FEW_SHOT)
        self.trunk_folder = folder.trunk
        self.device = choose(self.config.machine.device)
        set_rounding(self.config.protocol)
        self.clocks, self.shown_at = Clocks(self.device), time.monotonic()
        self.record = RunResult(run, "done")
        if run.kind != "trial":
            self.record.decoding, self.record.scoring = self.plan.decoding, self.plan.scoring
        self.calls: dict[str, Any] = {}  # what is known of the base's calls, once it was tried

    @cached_property
    def test(self) -> list[Example]:
        """The test examples; only their outputs' scores need them."""
        return [Example.from_row(row) for row in read_jsonl(self.test_file)]

    def report(self, kind: str, values: dict[str, Any]) -> None:
        """Pass on what the loop reports, steps with the peak so far; curves also go to the run's metrics file."""
        if kind == "metrics":
            append_jsonl(self.files.metrics_file, values)
        if "seconds_left" in values:
            values = {**values, "peak_bytes": peak_bytes(self.device)}
        self.emit(event_of({"run": self.run.id, "kind": kind, **values}))

    def state(self, state: str) -> None:
        """Report what the run is doing."""
        self.report("state", {"state": state})

    def load(self) -> Base:
        """Return the base, freshly loaded; the first time it is tried on two rows.

        At each call the run shows that it is alive. Raises SetupError if the base cannot be used.
        """
        self.state("loading")
        base = load_base(self.config.model, self.plan.precision, self.config.pin, self.run.quantize, self.device)
        if not self.calls:
            base, note = conforming(base)
            self.calls = {"cached": base.cached, "head_alone": base.head_alone}
            if note:
                self.emit(Note(text=note))
        base = replace(base, **self.calls)
        base.model.get_input_embeddings().register_forward_pre_hook(self.show_life)
        return base

    def show_life(self, *_: Any) -> None:
        """Report from time to time that the run is alive, if it has nothing else to report, as in a long validation."""
        if time.monotonic() - self.shown_at >= LIFE_SECONDS:
            self.shown_at = time.monotonic()
            self.emit(Progress(run=self.run.id))

    def count(self, adapted: nn.Module) -> None:
        """Record how many parameters the model has, and how many of them train."""
        record = self.record
        record.trainable_parameters, record.total_parameters = count_parameters(adapted)

    def probe(self, base: Base, adapted: nn.Module) -> float:
        """Return the loss of a few validation examples, which the trained and the saved adapter must both have."""
        rows = self.tokens["validation"][:PROBE_EXAMPLES]
        return mean_loss(evaluate_loss(base, adapted, rows, len(rows)))

    def finished(self) -> RunResult:
        """Return the record with all clocks in it; raise DivergedError if a value is not finite."""
        record = self.record
        record.costs |= {f"{phase}_seconds": seconds for phase, seconds in self.clocks.seconds.items()}
        odd = [name for name, value in record.metrics.items() if not math.isfinite(value)]
        if odd:
            raise DivergedError(f"{', '.join(odd)}: not finite. Try a lower learning_rate")
        return record

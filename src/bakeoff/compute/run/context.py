"""What every run needs: its folder, config, tokens, clocks and record, and a way to report progress."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from torch import nn

from bakeoff.compute.decoding.conformance import conforming
from bakeoff.compute.model.adapter_files import check_base
from bakeoff.compute.model.base import Base, count_parameters, for_decoding, load_base
from bakeoff.compute.model.device import Clocks, nth, peak_bytes, set_rounding
from bakeoff.compute.model.sharding import spread
from bakeoff.compute.model.team import ALONE
from bakeoff.compute.run.checks import Marks
from bakeoff.compute.run.handover import NOTHING, Given
from bakeoff.compute.run.resident import wanted_by
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.config.config import Config
from bakeoff.config.planned import planned_config
from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm, form_of, stops_of
from bakeoff.data.token_file import load_tokens
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.data.tokens import Tokens
from bakeoff.errors import DivergedError
from bakeoff.hub import base_files
from bakeoff.scoring.prompted import is_prompted, shows_examples
from bakeoff.store.content_hash import remember
from bakeoff.store.documents import CurveRow
from bakeoff.store.events import Emit, Note, Progress, event_of
from bakeoff.store.files import append_jsonl
from bakeoff.store.records import Run, RunResult
from bakeoff.store.run_folder import SPLITS, Folder, RunFolder

PROBE_EXAMPLES = 2  # enough to see whether two models are one
LIFE_SECONDS = 5.0
PROGRESS_SECONDS = 0.5  # between two reports of steps: nobody sees more, and each costs the driver half a millisecond


class Work:
    """A running run."""

    def __init__(
        self, folder: Folder, run: Run, emit: Emit, stop_requested: Callable[[], bool], given: Given = NOTHING
    ):
        self.folder, self.run, self.emit, self.stop_requested = folder, run, emit, stop_requested
        self.resident, self.handover, self.lender = given.resident, given.handover, given.lender
        self.files: RunFolder = folder.run(run.id)
        self.plan = folder.plan()
        self.config: Config = planned_config(folder, self.plan)
        files = base_files(self.config.model, self.config.pin)
        remember(files, self.plan.model.files, self.plan.model.weights)
        assert self.plan.output_tokens is not None  # a stored plan has it
        self.output_tokens = self.plan.output_tokens
        self.indented = INDENT in self.plan.texts
        self.tokens: dict[str, Sequence[Tokens]] = {s: load_tokens(folder.tokens_file(s)) for s in SPLITS}
        self.prompted = run.kind == "baseline" and is_prompted(run.entry)
        self.shows_examples = run.kind == "baseline" and shows_examples(run.entry)
        self.trunk_folder = folder.trunk
        self.team = given.team or ALONE
        self.device = nth(given.device or self.config.machine.device, self.team.number)
        set_rounding(self.config.protocol)
        self.clocks, self.shown_at, self.stepped_at = Clocks(self.device), time.monotonic(), -math.inf
        self.record = RunResult(run, "done", beside=given.beside, shards=self.team.size)
        if given.elsewhere and self.team.size > 1:
            self.record.machines = given.elsewhere.machines
        if run.kind != "trial":
            self.record.decoding, self.record.scoring = self.plan.decoding, self.plan.scoring
        self.calls: dict[str, Any] = {}  # what is known of the base's calls, once it was tried
        self.marks: Marks | None = None  # of the base that this run shares with others
        self.base_losses: dict[str, float] = {}  # that runs which share the base know, by their bakeoff's folder
        self.shared_seconds = 0.0  # that loading and trying a base took which this process has from another

    @cached_property
    def test(self) -> list[Example]:
        """The test examples; only prompted baselines and their outputs' scores need them."""
        return self.examples("test")

    def examples(self, split: str) -> list[Example]:
        """Return the examples of a split."""
        return [Example.from_row(row.row()) for row in self.folder.examples(split)]

    def train_examples(self, places: Collection[int]) -> dict[int, Example]:
        """Return the training examples at these places; the others are not kept in memory."""
        chosen, rows = {*places}, enumerate(self.folder.examples("train"))
        return {place: Example.from_row(row.row()) for place, row in rows if place in chosen}

    def report(self, kind: str, values: dict[str, Any]) -> None:
        """Pass on what the loop reports, steps with the peak so far; curves also go to the run's metrics file.

        Not every step is passed on, if they take less than PROGRESS_SECONDS.
        """
        if kind == "metrics" and self.team.leads:
            append_jsonl(self.files.metrics_file, CurveRow.model_validate(values).row())
        if "seconds_left" in values:
            if time.monotonic() - self.stepped_at < PROGRESS_SECONDS:
                return
            self.stepped_at = time.monotonic()
            values = {**values, "peak_bytes": peak_bytes(self.device)}
        self.emit(event_of({"run": self.run.id, "kind": kind, **values}))

    def state(self, state: str) -> None:
        """Report what the run is doing."""
        self.report("state", {"state": state})

    def load(self) -> Base:
        """Return the base, which nothing has changed; where it is loaded the first time, it is tried on two rows.

        At each call the run shows that it is alive. Raises SetupError if the base cannot be used, or is not the plan's.
        """
        self.state("loading")
        check_base(self.config, self.plan.model, "that this bakeoff was planned with")
        base, note = self.shared() or self.loaded()
        if note and not self.calls:
            self.emit(Note(text=note))
        self.calls = {"cached": base.cached, "head_alone": base.head_alone}
        base.model.get_input_embeddings().register_forward_pre_hook(self.show_life)
        return replace(base, stops=stops_of(self.plan), beside=self.record.beside)

    def form(self, base: Base) -> AnyForm:
        """Return the form of the examples."""
        return form_of(self.config, base.tokenizer, self.plan.chat is not None, base.decoder_start is not None)

    def shared(self) -> tuple[Base, str | None] | None:
        """Return the base that this run shares with others, and a note on its calls; None if none is left."""
        wanted = wanted_by(self.config, self.plan, self.run)
        if self.lender and wanted:
            lent, loaded = self.lender.lend(wanted)
            self.shared_seconds, self.marks = 0.0 if loaded else lent.seconds, lent.marks
            self.base_losses = lent.base_losses
            return lent.base, lent.note
        resident, self.resident = self.resident, None
        if resident is None or resident.wanted != wanted:
            return None
        self.shared_seconds, self.marks = resident.seconds, resident.marks
        self.base_losses = resident.base_losses
        return resident.base, resident.note

    def loaded(self) -> tuple[Base, str | None]:
        """Return the base, loaded by this process, and a note on its calls; the first time it is tried."""
        config, note = self.config, None
        how = (config.model, self.plan.precision, config.pin, self.run.quantize, self.device, self.team)
        base = load_base(*how)
        if not self.calls:
            spread(base, base.model)
            base, note = conforming(base)
            if self.team.sharded:  # it cannot be adapted any more
                base = replace(load_base(*how), cached=base.cached, head_alone=base.head_alone)
        return replace(base, **self.calls), note

    def settle(self, adapted: nn.Module, decoding: bool = False) -> None:
        """Leave what the base's lender holds beside an adapted model out of this run's memory."""
        if self.lender:
            self.lender.settle(adapted, decoding)

    def for_decoding(self, base: Base, adapted: nn.Module, precision: str) -> Base:
        """Return the base as greedy decoding calls it; see the function of this name."""
        if self.lender:
            base = self.lender.before_decoding(base, precision)
        decoded = base if self.team.sharded else for_decoding(base, adapted, precision)
        self.settle(adapted, decoding=True)
        return decoded

    def hand_over(self, trained_loss: float) -> bool:
        """Leave what was trained and measured to the process that evaluates it; return False if this one does."""
        if self.handover is None:
            return False
        left = {"record": asdict(self.record), "seconds": self.clocks.seconds, "calls": self.calls}
        self.handover.leave({**left, "loss": trained_loss})
        return True

    def take_over(self) -> float | None:
        """Continue with what another process has trained, and return its loss; None if there is nothing."""
        left = self.handover and self.handover.left()
        if not left:
            return None
        self.record = RunResult.from_json(left["record"])
        self.clocks.seconds, self.calls = left["seconds"], left["calls"]
        return left["loss"]

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

    def probe_untouched(self, base: Base) -> float:
        """Return the base's own loss on the probe; runs that share a base compute it once."""
        folder = str(self.folder.place)
        if folder not in self.base_losses:
            self.base_losses[folder] = self.probe(base, base.model)
            if self.handover:
                self.handover.tell(self.base_losses[folder])
        return self.base_losses[folder]

    def finished(self) -> RunResult:
        """Return the record with all clocks in it; raise DivergedError if a value is not finite."""
        record = self.record
        record.costs |= {f"{phase}_seconds": seconds for phase, seconds in self.clocks.seconds.items()}
        odd = [name for name, value in record.metrics.items() if not math.isfinite(value)]
        if odd:
            raise DivergedError(f"{', '.join(odd)}: not finite. Try a lower learning_rate")
        return record

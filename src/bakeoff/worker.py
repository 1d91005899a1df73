"""One run from start to result: the only function an executor ever calls.

A run reads its bakeoff's folder, works in a process of its own and leaves a record, whatever happens. This is the
one place that catches every exception, because here it becomes a record.
"""

import math
import sys
import traceback
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bakeoff.config import Config, load_config
from bakeoff.data.examples import Example
from bakeoff.data.forms import make_form
from bakeoff.data.tokens import Tokens, load_tokens
from bakeoff.errors import BakeoffError
from bakeoff.evaluation.baselines import FEW_SHOT, cut_share, extract, few_shot_rows, first_answer
from bakeoff.evaluation.checks import beats_unigram, equals_base, fingerprints, finite, only_moved, same_when_loaded
from bakeoff.evaluation.generation import generate
from bakeoff.evaluation.lengths import LENGTHS, text_lengths
from bakeoff.evaluation.neutral import neutral_rows
from bakeoff.evaluation.rouge import rouge
from bakeoff.measure import Clocks, peak_bytes, reset_peak
from bakeoff.methods import Method, build_method
from bakeoff.model import (
    Base,
    adapt,
    count_parameters,
    for_decoding,
    load_adapter,
    load_base,
    load_tokenizer,
    save_adapter,
    trainable,
)
from bakeoff.records import (
    SPLITS,
    Event,
    Folder,
    Run,
    RunFolder,
    RunResult,
    append_jsonl,
    read_jsonl,
    write_json,
    write_jsonl,
)
from bakeoff.training.checkpoint import load_checkpoint, save_checkpoint
from bakeoff.training.loop import DivergedError, Trainer
from bakeoff.training.loss import evaluate_loss, mean_loss
from bakeoff.training.trunk import serve_trunks

Emit = Callable[[Event], None]
PROBE_EXAMPLES = 8


def execute(path: Path, run_id: str, emit: Emit) -> RunResult:
    """Carry out one run of the bakeoff in folder `path`, write its record and return it; never raises an Exception.

    What to run stands in its run.json. A trial with a checkpoint goes on from there.
    """
    folder = Folder(path)
    files = folder.run(run_id)
    run = files.run()
    for stale in (files.result_file, files.predictions_file):
        stale.unlink(missing_ok=True)
    if not files.checkpoint_file.exists():
        files.metrics_file.unlink(missing_ok=True)
    try:
        result = RunWork(folder, run, emit).result()
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        text = str(error).strip() or type(error).__name__
        reason = text if isinstance(error, BakeoffError) else f"{type(error).__name__}: {text.splitlines()[0]}"
        result = RunResult(run, "failed", error=reason)
        if isinstance(error, DivergedError):
            result.check("loss_finite", reason)
    write_json(files.result_file, asdict(result))
    if result.status == "done":
        values = {"metrics": result.metrics, "costs": result.costs, "check_notes": result.check_notes}
        emit(Event(run_id, "done", values))
    elif result.status == "paused":
        emit(Event(run_id, "state", {"state": "paused"}))
    else:
        emit(Event(run_id, "failed", {"error": result.error}))
    return result


class RunWork:
    """The steps of one run, sharing its folder, config and clocks."""

    def __init__(self, folder: Folder, run: Run, emit: Emit):
        self.folder, self.run, self.emit = folder, run, emit
        self.files: RunFolder = folder.run(run.id)
        self.config: Config = load_config(folder.config_file)
        self.plan = folder.plan()
        self.output_tokens: int = self.plan["output_tokens"]
        self.tokens: dict[str, Sequence[Tokens]] = {s: load_tokens(folder.tokens_file(s)) for s in SPLITS}
        self.test_file = folder.examples_file("test")
        self.few_shot = run.kind == "baseline" and run.entry.startswith(FEW_SHOT)
        self.trunk_folder = folder.trunk
        self.clocks = Clocks()
        self.result_record = RunResult(run, "done")

    @cached_property
    def test(self) -> list[Example]:
        """The test examples; only their outputs' scores need them."""
        return [Example.from_row(row) for row in read_jsonl(self.test_file)]

    def report(self, kind: Any, values: dict[str, Any]) -> None:
        """Pass on what the loop reports; curves also go to the run's metrics file."""
        if kind == "metrics":
            append_jsonl(self.files.metrics_file, values)
        self.emit(Event(self.run.id, kind, values))

    def state(self, state: str) -> None:
        """Tell what the run is doing."""
        self.report("state", {"state": state})

    def result(self) -> RunResult:
        """Return the record of a trial, of an entry's final training, or of a baseline."""
        if self.run.kind == "baseline":
            return self.baseline()
        trained_loss = self.train(build_method(self.run.entry, {"method": self.run.method, **self.run.settings}))
        if trained_loss is None:
            return self.finished()
        with self.clocks.phase("reload"):
            base = self.load()
            adapted = load_adapter(base, self.files.adapter)
        again = self.probe(base, adapted)
        self.result_record.check("reloads_to_same_loss", same_when_loaded(trained_loss, again))
        return self.evaluate(base, adapted)

    def baseline(self) -> RunResult:
        """Return the finished record of a baseline: of copied text, or of the base with or without examples."""
        copied = extract(self.run.entry, self.test)
        if copied is not None:
            return self.score(copied, None)
        base = self.load()
        self.count(base.model.requires_grad_(False))
        if not self.few_shot:
            return self.evaluate(base, base.model)
        whole = self.tokens["test"]
        shots = [self.tokens["train"][i] for i in self.run.settings["examples"]]
        form = make_form(base.tokenizer, self.config.template, base.decoder_start is not None)
        rows = few_shot_rows(whole, shots, form, self.plan["model"]["context"], self.output_tokens)
        self.tokens["test"] = rows
        self.result_record.metrics["test/cut_documents"] = cut_share(rows, whole, shots, form)
        return self.evaluate(base, base.model)

    def load(self) -> Base:
        """Return the base, loaded anew."""
        self.state("loading")
        return load_base(self.config.model, self.config.protocol.precision)

    def count(self, adapted: torch.nn.Module) -> None:
        """Record how many parameters the model has, and how many of them train."""
        record = self.result_record
        record.trainable_parameters, record.total_parameters = count_parameters(adapted)

    def probe(self, base: Base, adapted: torch.nn.Module) -> float:
        """Return the loss of a few validation examples: what was trained and what was saved must give the same."""
        rows = self.tokens["validation"][:PROBE_EXAMPLES]
        return mean_loss(evaluate_loss(base, adapted, rows, len(rows)))

    def train(self, method: Method) -> float | None:
        """Train, check that nothing else moved, save the adapter; return the trained model's loss on the probe.

        A trial leaves a checkpoint and no adapter, and returns None. The model, its optimizer and its best weights
        are gone on return, so that evaluation, which is of what was saved, has the memory to itself.
        """
        record = self.result_record
        with self.clocks.phase("setup"):
            torch.manual_seed(self.run.seed)
            base = self.load()
            base_loss = self.probe(base, base.model) if method.starts_as_base else None
            adapted = adapt(base, method, self.config.protocol.gradient_checkpointing)
            before = fingerprints(adapted)
            to_train = set(trainable(adapted))
        if base_loss is not None:
            record.check("step0_equals_base", equals_base(base_loss, self.probe(base, adapted)))
        self.count(adapted)
        trainer = Trainer(
            base, adapted, method, self.config.protocol, self.run.seed, self.report, rungs=self.plan["rungs"]
        )
        with self.clocks.phase("setup"):
            carried = self.go_on(trainer)
        if not trainer.at.ended and self.config.protocol.trunk_cache != "off":
            with self.clocks.phase("trunk"):
                trainer.serve |= serve_trunks(base, adapted, self.tokens, self.trunk_folder, self.config.protocol)
        peak = self.take_steps(trainer, carried.get("peak_bytes", 0))
        record.learning_rate = method.learning_rate
        record.check("only_intended_moved", only_moved(before, fingerprints(adapted), to_train, record.best_step or 0))
        first = self.files.curve()[0]["validation/loss"]
        record.check("step0_beats_unigram", beats_unigram(first, self.tokens["validation"]))
        for name, complaint in carried.get("check_notes", {}).items():
            record.check(name, complaint)
        self.state("saving")
        if self.run.kind == "trial":
            record.status = "done" if trainer.at.ended else "paused"
            extra = {
                "rows": len(self.files.curve()), "seconds": dict(self.clocks.seconds), "peak_bytes": peak,
                "check_notes": record.check_notes,
            }  # fmt: skip
            with self.clocks.phase("saving"):
                save_checkpoint(self.files.checkpoint_file, trainer, extra)
            self.clocks.add(trainer.clocks.seconds)
            return None
        self.clocks.add(trainer.clocks.seconds)
        with self.clocks.phase("saving"):
            save_adapter(self.files.adapter, adapted, method, self.config)
        record.costs["adapter_bytes"] = sum(f.stat().st_size for f in self.files.adapter.glob("*.safetensors"))
        return self.probe(base, adapted)

    def take_steps(self, trainer: Trainer, peak_before: int) -> int:
        """Train as far as the run goes for now, note losses and costs, and return the peak since the first step."""
        record, first = self.result_record, trainer.at.step
        reset_peak()
        self.state("training")
        trained = trainer.train(self.tokens["train"], self.tokens["validation"], self.run.until)
        peak = max(peak_before, peak_bytes() if trained.steps > first else 0)
        record.costs["peak_bytes"] = peak
        record.costs["micro_batch_size"] = trained.micro_batch
        record.costs["tokens_per_second"] = trained.tokens / trainer.clocks.seconds["train"]
        record.steps, record.best_step = trained.steps, trained.best_step
        record.metrics |= {"train/loss": trained.train_loss, "validation/loss": trained.validation_loss}
        return peak

    def go_on(self, trainer: Trainer) -> dict[str, Any]:
        """Put the trainer where this run, or the trial that it adopts, stopped before; return what is carried over.

        A final run adopts the trial of its settings and seed, whose every step would be its own: the steps, their
        seconds, peak and trunk are carried over. The trial's set-up is not, because the run has one of its own.
        """
        for run_id in filter(None, (self.run.id, self.run.adopts)):
            source = self.folder.run(run_id)
            if source.checkpoint_file.exists():
                carried = load_checkpoint(source.checkpoint_file, trainer)
                curve = source.curve()[: carried["rows"]]
                write_jsonl(self.files.metrics_file, curve)
                self.emit(Event(self.run.id, "metrics", curve[-1]))
                phases = carried["seconds"] if run_id == self.run.id else ("trunk",)
                self.clocks.add({k: v for k, v in carried["seconds"].items() if k in phases})
                return carried
        return {}

    def look_beside(self, base: Base, adapted: torch.nn.Module) -> None:
        """Measure what an adapter forgets and over-fits: losses on neutral text and on a sample of training examples.

        The sample is as large as the validation split at most, evenly spaced over the training split.
        """
        metrics, train = self.result_record.metrics, self.tokens["train"]
        batch = 2 * self.config.protocol.batch_size
        with self.clocks.phase("evaluation"):
            neutral = neutral_rows(base.tokenizer, self.plan["max_tokens"], base.decoder_start is not None)
            if neutral:
                metrics["neutral/loss"] = mean_loss(evaluate_loss(base, adapted, neutral, batch))
            if self.run.kind == "entry":
                count = min(len(train), len(self.tokens["validation"]))
                sample = [train[i * len(train) // count] for i in range(count)]
                loss = mean_loss(evaluate_loss(base, adapted, sample, batch))
                metrics["train_sample/loss"] = loss
                metrics["validation/overfitting"] = metrics["validation/loss"] - loss

    def evaluate(self, base: Base, adapted: torch.nn.Module) -> RunResult:
        """Read the test split once: its loss, then greedy outputs and their scores."""
        tokens = self.tokens["test"]
        reset_peak()
        self.state("testing")
        if not self.few_shot:
            self.look_beside(base, adapted)
        with self.clocks.phase("evaluation"):
            losses = evaluate_loss(base, adapted, tokens, 2 * self.config.protocol.batch_size)
        self.result_record.metrics["test/loss"] = mean_loss(losses)
        self.result_record.check("loss_finite", finite(self.files.curve(), losses))
        self.state("generating")
        prompts = [array("i", row.prompt) for row in tokens]  # 4 bytes an id, where a list takes 36
        with self.clocks.phase("generation"):
            decoder = for_decoding(base, adapted, self.config.generation.precision)
            ids = generate(
                decoder, adapted, prompts, self.output_tokens, self.config.generation.batch_size,
                lambda n: self.report("progress", {"examples": n, "examples_total": len(tokens)}),
            )  # fmt: skip
        self.result_record.costs["evaluation_peak_bytes"] = peak_bytes()
        outputs = [text.strip() for text in base.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        if self.few_shot:
            outputs = [first_answer(text) for text in outputs]
        return self.score(outputs, losses)

    def score(self, outputs: Sequence[str], losses: list[tuple[float, int]] | None) -> RunResult:
        """Store a row a test example and return the record with the mean scores."""
        test, record = self.test, self.result_record
        references = [e.references or [e.summary] for e in test]
        with self.clocks.phase("evaluation"):
            scores = rouge(outputs, references)
            lengths = text_lengths(outputs, references, load_tokenizer(self.config.model))
        rows: list[dict[str, Any]] = [
            {"id": e.id, "output": o, **s, **n} for e, o, s, n in zip(test, outputs, scores, lengths, strict=True)
        ]
        if losses is not None:
            rows = [{**row, "loss": loss, "tokens": count} for row, (loss, count) in zip(rows, losses, strict=True)]
        write_jsonl(self.files.predictions_file, rows)
        for name in scores[0]:
            for letter, suffix in (("f", ""), ("p", "_precision"), ("r", "_recall")):
                record.metrics[f"test/{name}{suffix}"] = sum(s[name][letter] for s in scores) / len(scores)
        record.metrics |= {f"test/{name}": sum(n[name] for n in lengths) / len(lengths) for name in LENGTHS}
        return self.finished()

    def finished(self) -> RunResult:
        """Return the record with all clocks in it; raise DivergedError where a figure is not finite."""
        record = self.result_record
        record.costs |= {f"{phase}_seconds": seconds for phase, seconds in self.clocks.seconds.items()}
        odd = [name for name, value in record.metrics.items() if not math.isfinite(value)]
        if odd:
            raise DivergedError(f"{', '.join(odd)}: not finite. Try a lower learning_rate")
        return record

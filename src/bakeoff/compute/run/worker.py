"""What a run does with a model: it trains, saves, loads what was saved and reads the test split, or decodes again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from bakeoff.compute.model.adapter_files import load_adapter, save_adapter
from bakeoff.compute.model.base import Base, adapt, trainable
from bakeoff.compute.model.device import peak_bytes, release, reset_peak
from bakeoff.compute.model.sharding import spread
from bakeoff.compute.model.team import whole_weights
from bakeoff.compute.run.checks import (
    beats_unigram,
    equals_base,
    few_skipped,
    fingerprints,
    only_moved,
    same_when_loaded,
    start_tolerance,
)
from bakeoff.compute.run.context import Work
from bakeoff.compute.run.evaluate import evaluate, score
from bakeoff.compute.run.handover import NOTHING, Given
from bakeoff.compute.run.prompted import prompted
from bakeoff.compute.training.checkpoint import CheckpointWriter, checkpoint_files, load_newest
from bakeoff.compute.training.compiled import compiled_blocks
from bakeoff.compute.training.loop import Trained, Trainer
from bakeoff.compute.training.loss import start
from bakeoff.compute.training.trunk_cache import serve_trunks, stores_trunk
from bakeoff.methods import Method, build_method
from bakeoff.scoring.baselines import extract
from bakeoff.store.events import Emit, Note, event_of
from bakeoff.store.files import write_jsonl
from bakeoff.store.records import Run, RunResult, Step
from bakeoff.store.run_folder import Folder


def work_on(
    folder: Folder, run: Run, left: Step, emit: Emit, stop_requested: Callable[[], bool], given: Given = NOTHING
) -> RunResult | None:
    """Return the record of a run that is trained, or whose outputs are made again, by what is left to do for it.

    None if it is trained now and another process evaluates it.
    """
    files = folder.run(run.id)
    trained = given.handover and given.handover.left()  # by the run's first process, whose curve stays
    leads = given.team is None or given.team.leads
    if left == "train" and leads and not trained and not checkpoint_files(files.checkpoints):
        files.metrics_file.unlink(missing_ok=True)
    work = Work(folder, run, emit, stop_requested, given)
    return result_of(work) if left == "train" else decoded_again(work)


def result_of(work: Work) -> RunResult | None:
    """Return the record of a trial, of an entry's final training, or of a baseline; None if another process does."""
    if work.run.kind == "baseline":
        return baseline(work)
    trained_loss = work.take_over()
    if trained_loss is None:
        trained_loss = train(work, build_method(work.run.entry, {"method": work.run.method, **work.run.settings}))
        if trained_loss is None:
            return work.finished()
        if work.hand_over(trained_loss):
            return None
        release(work.device)
    with work.clocks.phase("reload"):
        base, adapted = saved(work)
    again = work.probe(base, adapted)
    work.record.check("reloads_to_same_loss", same_when_loaded(trained_loss, again))
    return evaluate(work, base, adapted)


def saved(work: Work) -> tuple[Base, nn.Module]:
    """Return the base, and the base with the run's saved adapter on it."""
    base = work.load()
    adapted = load_adapter(base, work.files.adapter)
    spread(base, adapted)
    work.settle(adapted)
    return base, adapted


def decoded_again(work: Work) -> RunResult:
    """Return the record of a finished run whose outputs its adapter makes again."""
    if work.run.kind == "baseline":
        return baseline(work)
    before = work.files.finished()
    assert before is not None, work.run.id
    metrics = {name: value for name, value in before.metrics.items() if not name.startswith("test/")}
    decoding, scoring = work.record.decoding, work.record.scoring
    work.record = replace(
        before, run=work.run, metrics=metrics, costs=dict(before.costs), decoding=decoding, scoring=scoring
    )
    result = evaluate(work, *saved(work))
    result.costs["evaluation_seconds"] = before.costs.get("evaluation_seconds")  # with those of training's validations
    return result


def baseline(work: Work) -> RunResult:
    """Return the finished record of a baseline: of copied text, or of the base with or without examples."""
    copied = extract(work.run.entry, work.test, work.run.settings)
    if copied is not None:
        return score(work, copied, None)
    base = work.load()
    work.count(base.model.requires_grad_(False))
    spread(base, base.model)
    if work.prompted:
        prompted(work, base)
    return evaluate(work, base, base.model)


def train(work: Work, method: Method) -> float | None:
    """Train, check that nothing else changed, save the adapter; return the trained model's loss on the probe.

    A trial leaves a checkpoint and no adapter, and returns None. The model, its optimizer and its best weights are
    freed on return, so that the evaluation of the saved adapter has all the memory.
    """
    record = work.record
    with work.clocks.phase("setup"):
        torch.manual_seed(work.run.seed)
        base = work.load()
        base, base_loss = loss_of_base(work, base, method)
        adapted = adapt(base, method, work.config.protocol.gradient_checkpointing)
        spread(base, adapted)
        work.settle(adapted)
        start(base, adapted, method, work.tokens["train"], work.config.protocol.batch_size)
        before = fingerprints(adapted, work.marks if method.keeps_base else None)
        to_train = set(trainable(adapted))
    work.clocks.add({"setup": work.shared_seconds})
    if base_loss is not None:
        record.check("step0_equals_base", equals_base(base_loss, work.probe(base, adapted), start_tolerance(base)))
    work.count(adapted)
    trainer = Trainer(base, adapted, method, work.config.protocol, work.run.seed, work.report, rungs=work.plan.rungs)
    with work.clocks.phase("setup"):
        carried = go_on(work, trainer)
    keeper = keep(work, trainer, carried)
    work.team.draw_apart(work.run.seed, trainer.at.step)
    if not trainer.at.ended and work.team.size == 1 and stores_trunk(method, work.config.protocol):
        with work.clocks.phase("trunk"):
            tell = partial(work.state, "storing trunk")
            trainer.serve |= serve_trunks(base, adapted, work.tokens, work.trunk_folder, work.config.protocol, tell)
    take_steps(work, trainer, keeper)
    record.learning_rate = method.learning_rate
    complaint = only_moved(before, fingerprints(adapted), to_train, record.best_step or 0, method.may_stay_unchanged)
    record.check("only_intended_moved", complaint)
    if work.team.leads:  # the others, maybe on another machine, may not see yet what rank 0 writes
        first = next(row.validation_loss for row in work.files.curve() if row.validation_loss is not None)
        record.check("step0_beats_unigram", beats_unigram(first, work.tokens["validation"]))
    for name, complaint in carried.get("check_notes", {}).items():
        record.check(name, complaint)
    work.state("saving")
    keeper.save(trainer)
    work.clocks.add(trainer.clocks.seconds)
    if work.run.kind == "trial":
        record.status = "done" if trainer.at.ended else "paused"
        return None
    save_trained(work, adapted, trainer, method)
    return work.probe(base, adapted)


def save_trained(work: Work, adapted: nn.Module, trainer: Trainer, method: Method) -> None:
    """Save the adapter, by rank 0 for all, and note its size."""
    with work.clocks.phase("saving"), whole_weights(adapted, trainer.weights):
        if work.team.leads:
            save_adapter(work.files.adapter, adapted, method, work.config, work.run.quantize)
        work.team.wait()
    work.record.costs["adapter_bytes"] = sum(f.stat().st_size for f in work.files.adapter.glob("*.safetensors"))


def loss_of_base(work: Work, base: Base, method: Method) -> tuple[Base, float | None]:
    """Return a base that can be adapted, and its loss on the probe if the method starts with the same."""
    if not method.starts_exactly(base.precision):
        return base, None
    spread(base, base.model)
    loss = work.probe_untouched(base)
    return (work.load() if work.team.sharded else base), loss


def keep(work: Work, trainer: Trainer, carried: dict[str, Any]) -> CheckpointWriter:
    """Let the trainer write checkpoints, and return their writer; `carried` comes from the one that it resumes from."""
    first = trainer.at.step

    def peak(trainer: Trainer) -> int:
        return max(carried.get("peak_bytes", 0), peak_bytes(work.device) if trainer.at.step > first else 0)

    def extra(trainer: Trainer) -> dict[str, Any]:
        return {
            "run": work.run.id,
            "curve": [row.row() for row in work.files.curve()],
            "seconds": work.clocks.seconds,
            "peak_bytes": work.record.costs.get("peak_bytes") or peak(trainer),
            "check_notes": carried.get("check_notes", {}) | work.record.check_notes,
        }

    def stop_requested() -> bool:
        if work.stop_requested():  # the driver waits for a checkpoint that it knows to be under way
            work.state("saving")
        return work.stop_requested()

    keeper = CheckpointWriter(
        work.files.checkpoints, work.config.safety, extra, stop_requested, first if carried else None
    )
    trainer.keep = keeper.after_step
    return keeper


def take_steps(work: Work, trainer: Trainer, keeper: CheckpointWriter) -> None:
    """Train as far as the run goes for now, and note losses, costs and the peak since the first step."""
    record = work.record
    reset_peak(work.device)
    work.state("training")
    with compiled_blocks(trainer.adapted, work.config.protocol.compile_blocks):
        trained = trainer.train(work.tokens["train"], work.tokens["validation"], work.run.until)
    record.costs["peak_bytes"] = work.team.most(keeper.extra(trainer)["peak_bytes"])
    record.costs["micro_batch_size"] = trained.micro_batch
    record.costs["tokens_per_second"] = trained.tokens / trainer.clocks.seconds["train"]
    record.steps, record.best_step = trained.steps, trained.best_step
    if trainer.base.precision == "fp16":
        record.costs["skipped_steps"] = trained.skipped
        if trained.ended:
            say_skipped(work, trained)
    record.metrics |= {"train/loss": trained.train_loss, "validation/loss": trained.validation_loss}


def say_skipped(work: Work, trained: Trained) -> None:
    """Say how many steps of a training in fp16 were skipped, and check that they are few."""
    skipped, steps = trained.skipped, trained.steps
    work.record.check("few_steps_skipped", few_skipped(skipped, steps))
    if skipped:
        why = "were skipped, because their gradients left the range of fp16"
        work.emit(Note(text=f"{work.run.entry}: {skipped} of {steps} steps {why}"))


def go_on(work: Work, trainer: Trainer) -> dict[str, Any]:
    """Put the trainer where this run, or the trial that it adopts, stopped; return what is carried over.

    A final run adopts the trial of its settings and seed, all of whose steps it would repeat: the steps, their seconds,
    peak and trunk are carried over. The trial's set-up is not, because the run has its own.
    """
    for run_id in filter(None, (work.run.id, work.run.adopts)):
        carried = load_newest(work.folder.run(run_id).checkpoints, trainer, partial(left_by, run_id))
        if carried:
            if work.team.leads:
                write_jsonl(work.files.metrics_file, carried["curve"])
            work.emit(event_of({"run": work.run.id, "kind": "metrics", **carried["curve"][-1]}))
            phases = carried["seconds"] if run_id == work.run.id else ("trunk",)
            work.clocks.add({k: v for k, v in carried["seconds"].items() if k in phases})
            return carried
    if work.team.leads:
        work.files.metrics_file.unlink(missing_ok=True)
    return {}


def left_by(run_id: str, extra: dict[str, Any]) -> bool:
    """Return whether a checkpoint carries what this version writes for this run."""
    parts = [extra.get(key) for key in ("curve", "seconds", "check_notes")]
    return extra.get("run") == run_id and list(map(type, parts)) == [list, dict, dict] and bool(parts[0])

"""An exclusive timing: the first steps of a finished run once more, while no other run is carried out."""

from collections.abc import Callable

import torch

from bakeoff.compute.model.base import adapt
from bakeoff.compute.model.sharding import spread
from bakeoff.compute.run.context import Work
from bakeoff.compute.run.handover import NOTHING, Given
from bakeoff.compute.training.compiled import compiled_blocks
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import start
from bakeoff.compute.training.trunk_cache import serve_trunks, stores_trunk
from bakeoff.methods import build_method
from bakeoff.store.events import Emit, Event, Progress
from bakeoff.store.records import ALONE, Run, RunResult
from bakeoff.store.run_folder import Folder

SHARE, FEWEST, MOST = 1 / 4, 8, 32  # of a run's steps are timed, with the first ones, which are slower


def timed_steps(steps: int) -> int:
    """Return how many of a run's steps are timed: while they are, all other workers wait."""
    return min(steps, max(FEWEST, min(MOST, round(SHARE * steps))))


def timed_alone(
    folder: Folder, run: Run, emit: Emit, stop_requested: Callable[[], bool], given: Given = NOTHING
) -> RunResult:
    """Return a finished run's record with the tokens per second that its first steps have now; nothing is trained."""

    def show_life(_: Event) -> None:
        emit(Progress(run=run.id))

    work = Work(folder, run, show_life, stop_requested, given)
    record, protocol = work.files.finished(), work.config.protocol
    assert record is not None, run.id
    method = build_method(run.entry, {"method": run.method, **run.settings})
    torch.manual_seed(run.seed)
    base = work.load()
    adapted = adapt(base, method, protocol.gradient_checkpointing)
    spread(base, adapted)
    work.settle(adapted)
    start(base, adapted, method, work.tokens["train"], protocol.batch_size)
    seldom = protocol.model_copy(update={"evaluate_every": None, "patience": None})
    trainer = Trainer(base, adapted, method, seldom, run.seed, lambda *_: None)
    if work.team.size == 1 and stores_trunk(method, protocol):
        trainer.serve |= serve_trunks(base, adapted, work.tokens, work.trunk_folder, protocol, bool)
    with compiled_blocks(adapted, protocol.compile_blocks):
        trained = trainer.train(work.tokens["train"], work.tokens["validation"][:1], timed_steps(run.steps or MOST))
    record.costs[ALONE] = trained.tokens / trainer.clocks.seconds["train"]
    return record

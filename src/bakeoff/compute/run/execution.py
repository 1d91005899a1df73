"""One run from start to record: the only function that an executor calls.

A run reads its bakeoff's folder, has its own process, and writes a record whatever happens. Only this module catches
every exception, to put it into the record. It loads torch for runs that need a model alone.
"""

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from bakeoff.compute.run.handover import NOTHING, Given
from bakeoff.compute.run.reasons import explained
from bakeoff.config.planned import planned_config
from bakeoff.data.examples import Example
from bakeoff.scoring.lengths import LENGTHS
from bakeoff.scoring.outputs import scored, tell_function
from bakeoff.store.events import Done, Emit, Failed, Ranked, State
from bakeoff.store.files import write_jsonl
from bakeoff.store.records import Run, RunResult, Step
from bakeoff.store.run_folder import Folder

BESIDE = {*LENGTHS, "loss", "tokens"}  # of a row of predictions, no scores
STAYS = {"test/loss", "test/cut_documents", "test/shots"}  # of the test metrics, when the same outputs are scored again


def execute(
    path: Path, run_id: str, left: Step, emit: Emit, stop_requested: Callable[[], bool] = bool, given: Given = NOTHING
) -> RunResult | None:
    """Do what is left of one run of the bakeoff in folder `path`, write its record and return it; raises no Exception.

    Its run.json says what to run. A run with a checkpoint resumes from it. If `stop_requested` says that the run shall
    stop, its training writes a checkpoint and Stopped is raised, which is not an Exception; then there is no record.
    Returns None, without a record, after a training whose evaluation is the next process's (`given.handover`).
    """
    folder = Folder(path)
    files = folder.run(run_id)
    run = files.run()
    if left == "time":
        return timed(folder, run, emit, stop_requested, given)
    try:
        if left == "score":
            result = scored_again(folder, run, emit)
        else:
            from bakeoff.compute.run.members import in_team
            from bakeoff.compute.run.worker import work_on

            work = partial(work_on, folder, run, left, emit, stop_requested)
            found = in_team(work, folder, run, left, emit, given)
            if found is None:
                return None
            result = found
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        reason, cause = explained(error)
        result = RunResult(run, "failed", error=reason, cause=cause)
        if cause == "diverged":
            result.check("loss_finite", reason)
    files.write_result(result, known=result.trained_files)  # of a training before this one
    if result.status == "done":
        ranked = folder.plan().ranked_by
        emit(
            Done(
                run=run_id, metrics={**result.metrics}, costs={**result.costs}, check_notes=result.check_notes,
                ranked=Ranked(name=ranked.name, heading=ranked.heading),
            )
        )  # fmt: skip
    elif result.status == "paused":
        emit(State(run=run_id, state="paused"))
    else:
        emit(Failed(run=run_id, error=result.error))
    return result


def timed(folder: Folder, run: Run, emit: Emit, stop_requested: Callable[[], bool], given: Given) -> RunResult | None:
    """Write and return a finished run's record with the pace that it has alone; if that fails, the record stays."""
    files = folder.run(run.id)
    try:
        from bakeoff.compute.run.members import in_team
        from bakeoff.compute.run.timing import timed_alone

        work = partial(timed_alone, folder, run, emit, stop_requested)
        result = in_team(work, folder, run, "time", emit, given)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return files.result()
    files.write_result(result, known=result.trained_files)
    return result


def scored_again(folder: Folder, run: Run, emit: Emit) -> RunResult:
    """Score the stored outputs of a finished run by the metrics of the plan; return its record with these scores."""
    emit(State(run=run.id, state="scoring"))
    files, plan, names = folder.run(run.id), folder.plan(), planned_config(folder, folder.plan()).metrics
    before, rows = files.finished(), files.predictions()
    assert before is not None, run.id
    test = [Example.from_row(example.row()) for example in folder.examples("test")]
    beside = [{name: value for name, value in row.row().items() if name in BESIDE} for row in rows]
    begins = partial(tell_function, run.id, emit)
    rows, means = scored(names, plan, test, [row.output for row in rows], beside, begins)
    write_jsonl(files.predictions_file, (row.row() for row in rows))
    metrics = {name: value for name, value in before.metrics.items() if name in STAYS or not name.startswith("test/")}
    return replace(before, run=run, metrics=metrics | means, scoring=plan.scoring)

"""Experiment trackers: `python -m bakeoff.progress.trackers` passes on what runs write into the event log.

accelerate's trackers talk to TensorBoard, MLflow, Weights & Biases and trackio. They have their own process, so that a
tracker that is slow, or without a network, does not delay a run or end a bakeoff.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bakeoff.child_process import command
from bakeoff.config.config import Config
from bakeoff.errors import SetupError
from bakeoff.interrupts import EndAtOnce
from bakeoff.progress.watch import events_of
from bakeoff.store.event_log import EventClock
from bakeoff.store.events import Metrics, RunEvent
from bakeoff.store.files import opened
from bakeoff.store.records import Run
from bakeoff.store.run_folder import Folder

DRAIN_SECONDS = 60.0  # how long a bakeoff that has ended waits for its trackers
INTERRUPTED_SECONDS = 20.0  # how long one that was interrupted does
ONE_RUN = ("mlflow", "wandb", "trackio")  # accelerate calls functions of theirs that mean the run begun last
# What an open run becomes at a tracker that knows more ends than one.
MLFLOW = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "paused": "FINISHED"}


def check_installed(config: Config) -> None:
    """Raise SetupError if a tracker that the config names is not installed."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise SetupError(f"trackers: {name} is not installed. Try: pip install 'bakeoff[{name}]'")


def check_several(config: Config, workers: int) -> None:
    """Raise SetupError if several runs are carried out at a time and a tracker has one current run per process."""
    one = [name for name in config.trackers if name in ONE_RUN]
    if one and workers > 1:
        raise SetupError(
            f"trackers: {one[0]} takes one run at a time, and here are {workers}. Try: --workers 1, or tensorboard"
        )


@contextmanager
def tracked(folder: Folder, config: Config, note: Callable[[str], None]) -> Iterator[None]:
    """Run a process that passes on new lines of the event log; its errors are in trackers.log."""
    if not config.trackers:
        yield
        return
    place = folder.events_file.stat().st_size if folder.events_file.exists() else 0
    log = folder.path / "trackers.log"
    with os.fdopen(opened(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w") as stream:
        follower = subprocess.Popen(
            command("progress.trackers", str(folder.path), str(place), *config.trackers),
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    patience = INTERRUPTED_SECONDS
    try:
        yield
        patience = DRAIN_SECONDS
    except EndAtOnce:
        patience = 0.0
        raise
    finally:
        drain(follower, log, patience, note)


def drain(follower: subprocess.Popen[bytes], log: Path, patience: float, note: Callable[[str], None]) -> None:
    """Let the trackers take the last lines and close their runs, then end them; report what went wrong."""
    try:
        follower.wait(patience)
    except subprocess.TimeoutExpired:
        if patience:
            note(f"trackers: still sending {patience:.0f} s after the last run, so they were ended")
    finally:
        follower.kill()
        if follower.wait() > 0:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            note(f"trackers: stopped with {lines[-1] if lines else 'no message'}. See {log}")


class Trackers:
    """The trackers of one bakeoff: one of each kind for every running run."""

    def __init__(self, kinds: Sequence[str], folder: Folder):
        self.kinds, self.folder = kinds, folder
        self.project = folder.plan().name
        self.open: dict[str, list[Any]] = {}
        self.met: set[str] = set()  # runs of which something was logged
        self.mlflow_runs: dict[str, str] = {}  # so that a trial resumes in the run that it paused in

    def take(self, event: RunEvent) -> None:
        """Pass on validations and final measurements; close the trackers of a run that ends or pauses."""
        if event.kind == "metrics":
            self.log_curve(event)
        elif event.kind == "done":
            result = self.folder.run(event.run).result()
            self.log(event.run, event.metrics | event.costs, result.steps if result else None)
        if event.kind == "done" or event.kind == "failed":
            self.finish(event.run, event.kind)
        elif event.kind == "state" and event.state in ("paused", "stopped"):
            self.finish(event.run, "paused")

    def log_curve(self, event: Metrics) -> None:
        """Log a validation; with a run's first one also those from its trial or an earlier session."""
        rows = [event.values()]
        if event.run not in self.met:
            self.met.add(event.run)
            before = self.folder.run(event.run).curve()
            rows = [*(row.row() for row in before if row.step < event.step), event.values()]
        for row in rows:
            self.log(event.run, {k: v for k, v in row.items() if k != "step"}, int(row["step"]))

    def log(self, run_id: str, values: Mapping[str, float | None], step: int | None) -> None:
        """Log numbers of a run at a step; the first ones open its trackers."""
        if run_id not in self.open:
            self.open[run_id] = [self.start(kind, self.folder.run(run_id).run()) for kind in self.kinds]
        for tracker in self.open[run_id]:
            tracker.log({k: v for k, v in values.items() if v is not None}, step=step)

    def start(self, kind: str, run: Run) -> Any:
        """Return a started tracker that has the run's settings."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        project = run.id if kind == "tensorboard" else self.project
        tracker = LOGGER_TYPE_TO_CLASS[kind](project, **self.arguments(kind, run))
        tracker.start()
        facts = {"entry": run.entry, "kind": run.kind, "method": run.method, "seed": run.seed, **run.settings}
        if kind == "mlflow":
            known = run.id in self.mlflow_runs  # its parameters are there already, and must not be given twice
            self.mlflow_runs[run.id] = tracker.tracker.info.run_id
            facts = {} if known else facts
        tracker.store_init_configuration(
            {k: v if isinstance(v, int | float | str) else str(v) for k, v in facts.items()}
        )
        return tracker

    def arguments(self, kind: str, run: Run) -> dict[str, Any]:
        """Return what a kind of tracker needs besides its project."""
        if kind == "tensorboard":
            return {"logging_dir": self.folder.path / "tensorboard"}
        if kind == "mlflow":
            return {"run_name": run.id, "run_id": self.mlflow_runs.get(run.id)}
        arguments = {"name": run.id, "group": run.entry, "resume": "allow"}
        return arguments if kind == "trackio" else {**arguments, "id": run.id, "dir": self.folder.path}

    def finish(self, run_id: str, how: str) -> None:
        """Close a run's trackers. Those that can, show how it ended: done, failed, paused or interrupted."""
        for kind, tracker in zip(self.kinds, self.open.pop(run_id, []), strict=False):
            if kind == "mlflow":
                import_module("mlflow").end_run(MLFLOW[how])
            elif kind == "wandb":
                tracker.run.finish(exit_code=int(how in ("failed", "interrupted")))
            else:
                tracker.finish()


def follow(folder: Folder, place: int, kinds: Sequence[str]) -> None:
    """Pass on the event log from byte `place` on, until the session that begins there ends.

    Runs that it leaves open were interrupted.
    """
    from accelerate import PartialState

    PartialState(cpu=True)  # else accelerate's trackers would take a GPU for themselves
    trackers, sessions = Trackers(kinds, folder), 0
    for event in events_of(folder, EventClock(), place):
        sessions += event.kind == "start"
        if sessions > 1:  # this one was killed, and the next has trackers of its own
            break
        if isinstance(event, RunEvent):
            trackers.take(event)
    for run_id in list(trackers.open):
        trackers.finish(run_id, "interrupted")


if __name__ == "__main__":
    follow(Folder(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])

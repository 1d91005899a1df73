"""A driver whose runs only talk: the processes of runs are threads that say what a training says, as often as it does.

`python benchmarks/talking.py DISPLAY FOLDER` prints the share of a core that the driver takes, as JSON.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import bakeoff
from bakeoff.compute.run.context import PROGRESS_SECONDS
from bakeoff.driver import executor
from bakeoff.driver.executor import Slot
from bakeoff.store.events import Metrics, Progress, State
from bakeoff.store.records import Task
from bakeoff.store.run_folder import Folder
from made_up import config, finish

METHODS = ["lora", "last_layers", "prompt_tuning", "ia3"]
SLOTS, STEPS, VALIDATE_EVERY = 8, 40, 8  # a step is said at most every half second
WARM_UP, MEASURED = 5.0, 30.0  # seconds
said, talked = [0], [0.0]  # messages, and processor seconds that they took before they reached the driver


class Talker:
    """Stands in for a run server: a training of 20 seconds that computes nothing."""

    def __init__(self, slot: Slot):
        self.slot = slot

    def ask(self, path: Path, task: Task, *_: Any) -> None:
        """Begin to talk of a run."""
        threading.Thread(target=self.talk, args=(Folder(path), task), daemon=True).start()

    def talk(self, folder: Folder, task: Task) -> None:
        """Say what a run says, then leave its record."""
        run, self.before = task.run, time.thread_time()
        for state in ("loading", "training"):
            self.say(State(run=run.id, state=state))
        for step in range(1, STEPS + 1) if run.steps else ():
            time.sleep(PROGRESS_SECONDS)
            self.say(
                Progress.model_validate({
                    "run": run.id, "step": step, "steps": STEPS, "tokens_per_second": 1e3, "seconds_left": 1.0,
                    "train/loss": 2.0, "peak_bytes": 10**9,
                })
            )  # fmt: skip
            if step % VALIDATE_EVERY == 0:
                row = {"run": run.id, "step": step, "epoch": 1.0, "seconds": 1.0, "validation/loss": 2.0}
                self.say(Metrics.model_validate(row))
        self.say(finish(folder, folder.plan(), run))
        self.slot.inbox.put((self, {"exit": 0}))  # type: ignore[arg-type]

    def say(self, event: Any) -> None:
        """Say an event, as a line that is read again."""
        line = json.dumps({"event": event.row()})
        self.talked()
        self.slot.inbox.put((self, json.loads(line)))  # type: ignore[arg-type]
        self.before = time.thread_time()

    def talked(self) -> None:
        """Count a message, and the processor time that this thread has spent on it."""
        said[0] += 1
        talked[0] += time.thread_time() - self.before

    def ended(self) -> None:
        """Return that this server runs."""

    def close(self) -> None:
        """Do nothing."""


def measure(found: dict[str, float]) -> None:
    """Measure processor time for a minute after a while, then interrupt the bakeoff."""
    time.sleep(WARM_UP)
    cpu, start, before = time.process_time() - talked[0], time.monotonic(), said[0]
    time.sleep(MEASURED)
    wall = time.monotonic() - start
    found |= {"share of a core, percent": 100 * (time.process_time() - talked[0] - cpu) / wall}
    found |= {"messages per second": (said[0] - before) / wall}
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Run a bakeoff of 1,000 talking runs for a minute."""
    display, folder = sys.argv[1], Path(sys.argv[2])
    found: dict[str, float] = {}
    executor.Slot.start = lambda slot, _: Talker(slot)  # type: ignore[assignment, method-assign, misc]
    given = config(folder, entries=25, trials=8, seeds=32, documents=10, methods=METHODS)
    usual = executor.LocalExecutor.run

    def run(*words: Any) -> Any:
        threading.Thread(target=measure, args=(found,), daemon=True).start()
        return usual(*words)

    executor.LocalExecutor.run = run  # type: ignore[method-assign]
    try:
        bakeoff.run({**given, "machine": {"workers": SLOTS}}, display=display)
    except KeyboardInterrupt:
        print(json.dumps({"display": display, "slots": SLOTS, **found}))


if __name__ == "__main__":
    main()

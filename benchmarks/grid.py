"""What a grid of two tasks on two bases costs, for docs/tasks.md: `python benchmarks/grid.py DIALOGSUM STORIES`.

Plans and runs recipes/tasks.yaml in a new folder; DIALOGSUM and STORIES are the folders of its data and second base.
With `--plan N` it is only planned, with up to N training examples for each task. With `--source FOLDER` the bakeoff in
another folder does it, such as the src of an earlier commit. Processor seconds are those of the command and of all
processes that it has started, also of those that outlive their parents.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes/tasks.yaml"
PR_SET_CHILD_SUBREAPER = 36


def measured(words: list[str], source: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of a command, by the clock and of the processor; end if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(source), "XDG_STATE_HOME": str(folder / "state")}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "bakeoff", *words]
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
    with suppress(ChildProcessError):  # none is left
        while True:
            os.wait()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.returncode)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "processor seconds": round(used, 1)}


def main() -> None:
    """Print one line of JSON per command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dialogsum", type=Path)
    parser.add_argument("stories", type=Path)
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plan", type=int)
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    splits = {split: str((asked.dialogsum / f"{split}.jsonl").resolve()) for split in ("train", "validation", "test")}
    settings = [f"models.stories.model={asked.stories.resolve()}", f"protocol.seeds={asked.seeds}"]
    settings += [f"tasks.dialogues.data.{split}={path}" for split, path in splits.items()]
    commands = [("plan", ["--json"]), *[("run", ["--display", "none"])] * 2]
    if asked.plan:
        settings += [f"tasks.{task}.data.train_limit={asked.plan}" for task in ("docstrings", "dialogues")]
        commands = commands[:1]
    options = [word for setting in settings for word in ("-s", setting)]
    with TemporaryDirectory() as temporary:
        for command, more in commands:
            words = [command, str(RECIPE), *options, *more]
            print(json.dumps({"command": command, **measured(words, asked.source.resolve(), Path(temporary))}))


if __name__ == "__main__":
    main()

"""Measurements in processes of their own, kept in a file so that what was interrupted resumes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bakeoff.compute.model.device import choose
from bakeoff.driver.executor import hiding_others
from bakeoff.driver.run_server import process_environment
from bakeoff.store.files import append_jsonl, json_object, read_jsonl


class Kept:
    """Measurements by name, noted in a file of JSON lines where there is one, and not taken again.

    A name holds for one `setting`, which is all that measurements must share to stand in one table.
    """

    def __init__(self, path: Path | None, setting: str):
        self.path, self.setting = path, setting
        rows = read_jsonl(path, json_object) if path and path.exists() else ()
        self.found = {row["name"]: row["figures"] for row in rows if row["setting"] == setting}

    def take(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what was measured under this name before, or measure now; None, a failure, is not kept."""
        if name not in self.found:
            figures = measure()
            if figures is None:
                return None
            self.found[name] = figures
            if self.path:
                append_jsonl(self.path, {"setting": self.setting, "name": name, "figures": figures})
        return self.found[name]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own, which leaves nothing on a GPU, not even a context."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run(script: str, arguments: list[str], ours: bool) -> dict[str, Any] | None:
    """Return a contender's figures, or None where it failed (its last words go to standard error).

    It sees one device: HF's Trainer would share each batch among all GPUs that it finds.
    """
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    theirs = process_environment("auto") if ours else os.environ  # part of our engine; peers start as their users do
    environment = hiding_others(str(choose("auto")), theirs)[1]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{script} {' '.join(arguments[:2])}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])

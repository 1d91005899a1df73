"""A run that is exported, and the processes that make its files and read them back. Only they load torch."""

import json
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakeoff.child_process import child
from bakeoff.config.config import Config
from bakeoff.driver.run_server import process_environment
from bakeoff.errors import SetupError
from bakeoff.export.options import Form, Options
from bakeoff.store.records import Run
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder

MAKE, READ_BACK, PROMPTS = "compute.export.make", "compute.export.read_back", "compute.export.prompts"


@dataclass(frozen=True)
class Job:
    """A run that is exported, with all that is known of it."""

    folder: Folder
    document: ResultsDocument
    run: Run
    adapter: Path
    config: Config
    options: Options
    form: Form

    def ask(self, module: str, **more: Any) -> dict[str, Any]:
        """Return what a process returns that exports this run."""
        asked = {"folder": str(self.folder.path.absolute()), "run": self.run.id, **more}
        return ask(module, asked, process_environment(self.options.device))


def ask(module: str, asked: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what one of bakeoff's processes returns; raise SetupError if it fails."""
    done = subprocess.run(
        child(module), input=json.dumps(asked), env=dict(environment), capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
        hint = ". Out of memory? Try a machine with more" if done.returncode == -signal.SIGKILL else ""
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SetupError(f"export: its process ended with {name}{hint} ({last:.300})")
    found: dict[str, Any] = json.loads(lines[-1])
    if "error" in found:
        raise SetupError(found["error"])
    return found

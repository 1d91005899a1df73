"""What a driver and a job of Slurm say to each other: two files of the run folder, which grow by lines of JSON.

The driver of a session *calls* a job. The job then ends whatever an earlier driver has asked for, and answers with a
*greeting*, a word that is new each time. From then on orders and answers have this word in them, and both sides ignore
what has another one. So nothing that was said before a driver was killed, or before a job was queued again, counts.
"""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from bakeoff.store.event_log import Growing
from bakeoff.store.files import append_jsonl
from bakeoff.store.run_folder import Folder

Said: TypeAlias = dict[str, Any]
KEY = r"\d+_\d+"  # of a job: the number of its array, and its own in it


class Talk(Growing):
    """What one side says to the other, as it comes."""

    def new(self) -> Iterator[Said]:
        """Yield what was said since the last call; nothing while there is no file, or its disk does not answer."""
        with suppress(OSError):
            for line in self.new_lines():
                said: Any = None
                with suppress(ValueError, RecursionError):
                    said = json.loads(line)
                if isinstance(said, dict):
                    yield said


class Channel:
    """The two files of one job."""

    def __init__(self, folder: Folder, key: str):
        self.key = key
        self.orders, self.says, self.log = (folder.jobs / f"{key}.{end}" for end in ("orders", "says", "log"))

    def remove(self) -> None:
        """Delete the files of a job that has ended."""
        for file in (self.orders, self.says, self.log):
            file.unlink(missing_ok=True)

    def reason(self) -> str:
        """Return the last line that a job has written into its log, or where that file is."""
        try:
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return lines[-1][:200] if lines else "it has written nothing"


class Job(Channel):
    """The driver's side: a job of this session, or of an earlier one that is called."""

    def __init__(self, folder: Folder, key: str):
        super().__init__(folder, key)
        self.heard = Talk(self.says)

    def call(self, session: str, spec: str) -> None:
        """Let the job work for a session; `spec` tells with what options it was submitted."""
        append_jsonl(self.orders, {"session": session, "spec": spec})

    def spec(self) -> str | None:
        """Return with what options the job was submitted."""
        return next((said.get("spec") for said in Talk(self.orders).new()), None)

    def order(self, greeting: str, *words: Any) -> None:
        """Order something from the job that has sent a greeting."""
        append_jsonl(self.orders, {"to": greeting, "do": words})


def jobs_in(folder: Folder) -> list[Job]:
    """Return the jobs that were submitted for a run folder and may not have ended yet."""
    names = (re.fullmatch(rf"({KEY})\.orders", file.name) for file in sorted(folder.jobs.glob("*.orders")))
    return [Job(folder, name[1]) for name in names if name]


def new_word() -> str:
    """Return a word that nobody has used before."""
    return secrets.token_hex(8)

"""A slot that is a job of Slurm, and its servers of runs, as the driver sees them."""

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from signal import SIGKILL
from typing import Any

from bakeoff.driver import slurm
from bakeoff.driver.executor import Slot
from bakeoff.driver.job_channel import Job, Said
from bakeoff.driver.node import complaint
from bakeoff.driver.run_server import Inbox
from bakeoff.driver.slot_folder import SlotFolder
from bakeoff.errors import SetupError
from bakeoff.store.records import Task
from bakeoff.store.run_folder import Folder

KILL_SECONDS = 60.0  # that a job may take to end a run


class JobServer:
    """A server of runs in a job."""

    def __init__(self, slot: "JobSlot", number: int, kind: str):
        self.slot, self.greeting, self.number, self.kind = slot, slot.greeting, number, kind
        self.status: int | None = None

    def ask(self, folder: Path, task: Task, device: str, beside: int) -> None:
        """Ask for a run."""
        self.order("ask", self.kind, str(folder.resolve()), task.run.id, task.left, beside)

    def kill(self, process: int | None, number: int) -> None:
        """Send a signal to the process of a run, or to the server."""
        if number == SIGKILL:
            self.slot.killed_at = self.slot.killed_at or time.monotonic()
        self.order("kill", process, int(number))

    def ended(self) -> int | None:
        """Return the status that the server was said to have ended with, or has since its job is gone."""
        gone = self.slot.lost or self.slot.greeting != self.greeting
        return -9 if gone and self.status is None else self.status

    def close(self) -> None:
        """End the server and its run."""
        self.order("close")

    def order(self, name: str, *words: Any) -> None:
        """Order something about this server."""
        self.slot.job.order(self.greeting, name, self.number, *words)


@dataclass(frozen=True)
class Terms:
    """What a session's jobs have in common: folder, its word, the device, what nodes are asked and compared with."""

    folder: Folder
    session: str
    device: str
    identity: str | None
    asked: tuple[Any, ...]


class JobSlot(Slot):
    """A slot in a job."""

    numbers = count()

    def __init__(self, terms: Terms, job: Job, inbox: Inbox):
        super().__init__("", terms.device, {}, inbox)
        self.terms, self.early_ends = terms, 0
        self.put_into(job)

    def put_into(self, job: Job) -> None:
        """Begin anew in another job."""
        self.job, self.greeting, self.next_greeting, self.state = job, "", "", slurm.JobState("PENDING", "")
        self.complaint: str | None = None
        self.disconnect()
        self.lost = self.told = self.ended = self.replaced = False

    def disconnect(self) -> None:
        """Forget the servers of a job that has begun anew."""
        self.servers, self.spare, self.ready, self.files = {}, None, False, None
        self.by_number = dict[int, JobServer]()
        self.killed_at, self.idle_since = 0.0, time.monotonic()

    def hangs(self) -> bool:
        """Return whether the job was to end a run and has not said that it has."""
        return bool(self.killed_at) and time.monotonic() - self.killed_at > KILL_SECONDS

    def usable(self) -> bool:
        """Return whether the job runs, and its node was found to fit."""
        return self.ready and not self.lost

    def begin(self, folder: Folder, task: Task, stall_seconds: float) -> None:
        """Start a run."""
        self.early_ends = 0
        super().begin(folder, task, stall_seconds)

    def end(self) -> Task:
        """Leave the run that is over, and return its task."""
        self.idle_since, self.killed_at = time.monotonic(), 0.0
        return super().end()

    def start(self, kind: str) -> JobServer:
        """Start a server."""
        server = JobServer(self, next(self.numbers), kind)
        self.job.order(self.greeting, "start", server.number, kind)
        self.by_number[server.number] = server
        return server

    def listen(self) -> None:
        """Take in what the job has said."""
        for said in self.job.heard.new():
            if said.get("session") == self.terms.session:
                self.next_greeting = said["greeting"]
                if self.greeting:  # it has begun anew
                    self.lose(saved=False)
            elif self.greeting and said.get("from") == self.greeting:
                self.hear(said)

    def hear(self, said: Said) -> None:
        """Take in an answer of the job."""
        if "facts" in said:
            self.place = ", ".join(dict.fromkeys(facts["host"] for facts in said["facts"]))
            self.complaint = complaint(said["facts"], self.terms.identity)
            self.ready, self.idle_since = self.complaint is None, time.monotonic()
        elif "lost" in said:
            self.lose(said["saved"])
        elif said["number"] in self.by_number:
            server = self.by_number[said["number"]]
            server.status = said["message"].get("server", server.status)
            self.inbox.put((server, said["message"]))

    def lose(self, saved: bool) -> None:
        """Let all servers have ended with their job, whose run was `saved` before or not."""
        if not self.lost:
            self.lost = True
            for server in self.by_number.values():
                server.status = -9
                self.inbox.put((server, {"server": -9, "lost": True, "saved": saved}))

    def learn(self, state: slurm.JobState) -> None:
        """Take in what Slurm says of the job."""
        self.state = state
        self.ended = state.state in slurm.ENDED
        if self.greeting and (self.ended or state.state == "PENDING"):
            self.lose(saved=False)

    def connect(self) -> None:
        """Begin to use a job that has begun, or begun anew."""
        self.disconnect()
        self.greeting, self.next_greeting = self.next_greeting, ""
        self.lost = self.told = False
        self.files = SlotFolder(self.terms.folder)
        self.job.order(self.greeting, "facts", *self.terms.asked)

    def close(self) -> None:
        """Order the job to end. It is cancelled, too, together with all others."""
        if self.greeting and not self.lost:
            with suppress(OSError, SetupError):
                self.job.order(self.greeting, "leave")

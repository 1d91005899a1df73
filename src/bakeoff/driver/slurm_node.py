"""One job of Slurm: a slot on the node that Slurm has given it, which the driver orders through files.

`python -P -m bakeoff.driver.slurm_node FOLDER DEVICE SAVE_SECONDS WAIT_SECONDS NODES RANKS [PLACE...]`

It is the first of the job's NODES, and on each of them are RANKS processes of a run.

While no driver runs, the current run continues to its end. Then the job waits WAIT_SECONDS for a driver, and ends. A
driver that starts meanwhile calls it (see `job_channel`): the run saves and ends before the job answers.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from bakeoff.child_process import also_search
from bakeoff.compute.run.rank_host import LOST
from bakeoff.compute.run.request import STOPPED
from bakeoff.config.sections import Pin
from bakeoff.driver.attempt import UNSAVED
from bakeoff.driver.job_channel import Channel, Said, Talk, new_word
from bakeoff.driver.node import Node
from bakeoff.driver.slurm_hosts import OtherNodes, node_for
from bakeoff.errors import SetupError
from bakeoff.store.files import append_jsonl
from bakeoff.store.run_folder import Folder

HEAR_SECONDS = 0.3  # between two looks for orders
TERM_SECONDS = 2.0  # in which Slurm's signal to end reaches all processes of a job
NEAR_SECONDS = 120.0  # a driver that was seen so long ago may still run: times of files on network disks come late


@dataclass
class Current:
    """The run that is being carried out: by which server, in which process, and what it does."""

    number: int
    process: int | None = None
    state: str = ""


class LeaveError(Exception):
    """The driver wants this job to end."""


class DriverWatch:
    """Looks whether a driver runs: it touches the lock of the run folder. No other machine's clock is used."""

    def __init__(self, folder: Folder):
        self.file, self.touched_at, self.seen_at = folder.lock_file, 0, time.monotonic()

    def silent(self) -> float:
        """Return for how many seconds no driver was seen."""
        try:
            touched_at = self.file.stat().st_mtime_ns
        except OSError:
            touched_at = self.touched_at
        if touched_at != self.touched_at:
            self.touched_at, self.seen_at = touched_at, time.monotonic()
        return time.monotonic() - self.seen_at


class JobNode:
    """A job: obeys the driver that has called it last, and passes on what its servers say.

    Its runs are on the `others`, too, if it has more nodes than this one.
    """

    def __init__(
        self, folder: Folder, key: str, node: Node, save_seconds: float, wait_seconds: float,
        others: OtherNodes | None = None,
    ):  # fmt: skip
        self.folder, self.channel, self.node, self.others = folder, Channel(folder, key), node, others
        self.save_seconds, self.wait_seconds = save_seconds, wait_seconds
        self.orders, self.driver = Talk(self.channel.orders), DriverWatch(folder)
        self.greeting = ""
        self.current: Current | None = None
        self.status: int | None = None  # of the last run's process
        self.may_end = False  # whether the driver has sent the current run a signal
        self.limit_near = threading.Event()
        self.began = time.monotonic()

    def serve(self) -> None:
        """Obey orders until the driver or Slurm wants this job to end, or no driver comes."""
        try:
            while not self.is_left():
                for said in self.orders.new():
                    self.obey(said)
                self.pass_on(HEAR_SECONDS)
                if self.limit_near.is_set():
                    self.queue_again()
                    return
        except LeaveError:
            pass
        finally:
            self.node.leave()
            if self.others:
                self.others.end()

    def is_left(self) -> bool:
        """Return whether nobody needs this job any more: its files are gone, or no driver has come for too long."""
        if self.greeting and not self.channel.orders.exists():
            return True
        called = self.driver.silent() if self.greeting else time.monotonic() - self.began
        return self.current is None and called > self.wait_seconds

    def tell(self, **said: Any) -> None:
        """Say something to the driver."""
        append_jsonl(self.channel.says, {"from": self.greeting, **said})

    def obey(self, said: Said) -> None:
        """Answer a driver's call, or do what the driver that was answered last orders."""
        if "session" in said:
            self.stop_run()
            self.greeting = new_word()
            append_jsonl(self.channel.says, {"session": said["session"], "greeting": self.greeting})
        elif said.get("to") == self.greeting:
            name, *words = said["do"]
            getattr(self, f"do_{name}")(*words)

    def do_facts(self, mark: str, model: str, *pin: Any) -> None:
        """Say what the driver compares, of each node of this job; raise SetupError if one of them does not answer."""
        word = self.others.start([str(self.folder.path), mark, model, *pin]) if self.others else ""
        found = [self.node.facts(str(self.folder.path), mark, model, Pin(*pin))]
        if self.others:
            facts, places = self.others.answers()
            self.node.lead(places[0], self.others.ranks, places, word)
            found += facts
        self.tell(facts=found)

    def do_start(self, number: int, kind: str) -> None:
        """Start a server."""
        self.node.start(number, kind)

    def do_ask(self, number: int, kind: str, folder: str, run: str, left: Any, beside: int) -> None:
        """Ask a server for a run, whose files are in a folder of this slot."""
        self.current, self.status, self.may_end = Current(number), None, False
        self.node.ask(number, kind, folder, Folder(folder).run(run).run(), left, beside, {})

    def do_kill(self, number: int, process: int | None, signal_number: int) -> None:
        """Send a signal to a run or its server."""
        self.may_end = True
        self.node.kill(number, process, signal_number)

    def do_close(self, number: int) -> None:
        """End a server."""
        self.node.close(number)
        if self.current and self.current.number == number:
            self.current = None

    def do_leave(self) -> None:
        """End this job."""
        raise LeaveError

    def pass_on(self, seconds: float) -> None:
        """Wait at most some seconds for what a server says, note what it means for the run, and pass it on."""
        for number, message in self.node.hear(seconds):
            if self.current and number == self.current.number:
                self.current.process = message.get("started", self.current.process)
                event = message.get("event", {})
                if event.get("kind") == "state":
                    self.current.state = event["state"]
                if "exit" in message or "server" in message:
                    self.status, self.current = message.get("exit", message.get("server")), None
                    if self.others and self.status == LOST:
                        self.limit_near.set()  # what is left of this job is of no use
                    if self.limit_near.is_set() and self.status != 0:
                        continue  # `queue_again` says it, so that it is no failure
                    if self.status in (STOPPED, -signal.SIGTERM) and not self.may_end:
                        time.sleep(TERM_SECONDS)  # Slurm ends the whole job, and the run was quicker
            self.tell(number=number, message=message)

    def stop_run(self) -> bool:
        """Let the current run save, end it and all servers; return whether nothing is lost."""
        until, asked = time.monotonic() + 0.8 * self.save_seconds, False
        idle = self.current is None and self.status != LOST
        while self.current and self.current.state in UNSAVED and time.monotonic() < until:
            if not asked:
                self.node.kill(self.current.number, self.current.process, signal.SIGTERM)
                asked = True
            self.pass_on(HEAR_SECONDS)
        saved = idle or (self.current is None and self.status in (STOPPED, 0))
        self.current = None
        self.node.leave()
        return saved

    def queue_again(self) -> None:
        """Save, if this is the time limit, and go back into the queue if there is a driver to come back to."""
        self.tell(lost=True, saved=self.stop_run())
        if self.driver.silent() < NEAR_SECONDS:
            subprocess.run(["scontrol", "requeue", self.channel.key], check=False)  # it ends this process
            time.sleep(self.save_seconds)


def main() -> None:
    """Be the node of one job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("device")
    parser.add_argument("save_seconds", type=float)
    parser.add_argument("wait_seconds", type=float)
    parser.add_argument("nodes", type=int)
    parser.add_argument("ranks", type=int)
    parser.add_argument("places", nargs="*")
    asked = parser.parse_args()
    also_search(asked.places)
    key = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ)
    others = OtherNodes(asked.nodes - 1, asked.device, asked.ranks) if asked.nodes > 1 else None
    slot = node_for(asked.device, asked.ranks)
    node = JobNode(Folder(asked.folder), key, slot, asked.save_seconds, asked.wait_seconds, others)
    signal.signal(signal.SIGUSR1, lambda *_: node.limit_near.set())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))  # the kernel ends runs with this process
    print(f"{time.strftime('%F %T')} {key} on {socket.gethostname()}", flush=True)
    try:
        node.serve()
    except SetupError as error:
        sys.exit(str(error))  # the driver reads the log's last line, and submits another job


if __name__ == "__main__":
    main()

"""Runs in jobs of Slurm. Slurm says where and when jobs run; all else is as on one machine.

Each slot is a job of an array (`slurm_node`), which carries out one run after the other. If it ends, or is queued
again, its run continues from its checkpoint elsewhere. A driver that was killed leaves its jobs; the next one takes
them over.
"""

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bakeoff.child_process import search_path
from bakeoff.config.config import Config
from bakeoff.config.machine import SlurmConfig
from bakeoff.config.planned import planned_config
from bakeoff.driver import slurm
from bakeoff.driver.executor import Executor, Slot
from bakeoff.driver.job_channel import Job, new_word
from bakeoff.driver.left_jobs import taken_over
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.shards import check_gpus
from bakeoff.driver.slurm_slot import JobSlot, Terms
from bakeoff.errors import SetupError
from bakeoff.store.checksums import digest
from bakeoff.store.content_hash import hash_of
from bakeoff.store.events import Event, Note
from bakeoff.store.run_folder import Folder

JOBS = 4  # unless the config says how many
LISTEN_SECONDS = 0.3  # between two looks at what jobs have said
ASK_SECONDS = 15.0  # between two questions to Slurm; it serves a whole cluster
SILENT_SECONDS = 60.0  # without any job that runs, then a note says what the driver waits for
IDLE_SECONDS = 60.0  # that a job may have nothing to do
END_SECONDS = 10.0  # that the driver waits for cancelled jobs to end
MOST_EARLY_ENDS = 3  # of jobs of one slot that have carried out nothing


class SlurmExecutor(Executor):
    """Carries out runs in jobs of Slurm, `machine.workers` at the same time, by default four."""

    def __init__(self, config: Config) -> None:
        self.settings = config.machine
        self.slurm = config.machine.slurm or SlurmConfig()
        super().__init__([], queue.SimpleQueue())
        nodes, shards = self.slurm.nodes, self.settings.shards
        usual = {"GPU" if slurm.has_gpus(self.slurm.partition) else "CPU": float(shards)}
        self.per_slot = self.settings.resources or usual
        check_gpus(self.per_slot, shards)
        self.folder = Folder(config.folder)
        self.options = slurm.options_of(self.folder, self.settings, self.per_slot)
        numbers = (self.slurm.save_seconds, self.slurm.wait_seconds, nodes, shards // nodes)
        self.script = slurm.script(self.folder, [self.settings.device, *map(str, numbers), *search_path()])
        self.count, self.session = self.settings.workers or JOBS, new_word()
        slurm.submit(self.options, self.script, self.count, test=True)
        self.spec = hash_of([self.options, self.script])
        self.jobs: list[Job] = []  # that may not have ended
        self.listened_at = self.asked_at = self.grown_at = self.waiting_since = 0.0
        self.told = False

    def start_early(self) -> None:
        """Do nothing: runs are carried out elsewhere."""

    def take_over(self, folder: Folder, say: Callable[[str], None]) -> None:
        """Let the jobs of an earlier driver save and be quiet; they are used again if they were submitted alike."""
        self.jobs = taken_over(folder, self.session, self.spec, self.count, say)

    def spread(self, devices: Sequence[str]) -> None:
        """Have as many slots as the config says. Jobs are submitted when runs begin."""
        self.slots = [Slot("", self.settings.device, {}, self.inbox)] * self.count

    def run(self, path: Path, ready: ReadySet, stop: Callable[[], bool] = bool) -> Iterator[Event]:
        """Carry out what is ready in jobs; see `Executor.run`."""
        self.ready = ready
        plan = self.folder.plan()
        config = planned_config(self.folder, plan)
        asked = (digest(self.folder.plan_file), config.model, config.pin.revision, config.pin.remote_code)
        self.terms = Terms(self.folder, self.session, self.settings.device, plan.model.identity, asked)
        self.waiting_since = time.monotonic()
        if self.jobs:
            yield Note(text=f"{len(self.jobs)} jobs of an earlier session are used again")
        for job in self.jobs:
            job.heard.place = 0  # its greeting was read before
        self.submit(self.count - len(self.jobs))
        self.slots = [JobSlot(self.terms, job, self.inbox) for job in self.jobs]
        yield from super().run(path, ready, stop)

    def submit(self, number: int) -> list[Job]:
        """Submit so many jobs more."""
        if number < 1:
            return []
        self.folder.jobs.mkdir(exist_ok=True)
        made = [Job(self.folder, key) for key in slurm.submit(self.options, self.script, number)]
        self.jobs += made
        for job in made:
            job.call(self.session, self.spec)
        return made

    def job_slots(self) -> list[JobSlot]:
        """Return the slots, which are placeholders until runs begin."""
        return [slot for slot in self.slots if isinstance(slot, JobSlot)]

    def renew(self) -> Iterator[Event]:
        """Begin to use jobs that have started, and replace those that have ended."""
        now = time.monotonic()
        if now - self.listened_at < LISTEN_SECONDS:
            return
        self.listened_at = now
        for slot in self.job_slots():
            slot.listen()
        if now - self.asked_at > ASK_SECONDS:
            self.asked_at = now
            yield from self.ask_slurm()
        for slot in self.job_slots():
            if slot.attempt is None:
                yield from self.look_at(slot)
        if "GPU" not in self.per_slot:
            places = Counter(slot.place for slot in self.job_slots())
            for slot in self.job_slots():
                slot.beside = places[slot.place] - 1
        self.give_back(now)
        self.take_more(now)
        yield from self.say_what_is_waited_for(now)

    def ask_slurm(self) -> Iterator[Event]:
        """Ask Slurm for the states of the jobs. If it does not answer, what was known before holds."""
        try:
            known = slurm.states(self.folder)
            hung = [slot for slot in self.job_slots() if slot.hangs()]
            slurm.cancel([slot.job.key for slot in hung])
            for slot in hung:
                slot.replaced = True
        except SetupError as error:
            yield Note(text=f"Slurm does not say how its jobs are ({error}); the driver tries again")
            return
        for slot in self.job_slots():
            slot.learn(known.get(slot.job.key, slurm.GONE))

    def look_at(self, slot: JobSlot) -> Iterator[Event]:
        """Use a job that has greeted, replace one that has ended, and leave one that cannot be used."""
        if slot.lost and not slot.told and not slot.ended:
            slot.told = True
            yield Note(text=f"job {slot.job.key} is in the queue again; its run continues from its checkpoint")
        if slot.next_greeting:
            slot.connect()
        elif slot.complaint:
            cure = "the same versions and base on all nodes"
            yield from self.drop(slot, f"{slot.complaint}, so it is not used", cure)
        elif slot.ended:
            began, slot.early_ends = bool(slot.greeting), slot.early_ends + 1
            end = f"job {slot.job.key} has ended ({slot.state.state.lower()})"
            if slot.state.state == "CANCELLED" and not slot.replaced:
                yield from self.drop(slot, end, "the same command again, which resumes")
            elif not began or slot.early_ends > MOST_EARLY_ENDS:
                self.jobs.remove(slot.job)  # its files stay for whoever reads the log; the next session removes them
                yield from self.drop(slot, f"{end} before it could begin: {slot.job.reason()}", f"see {slot.job.log}")
            else:
                yield Note(text=f"{end}; another one is submitted, and its run continues from its checkpoint")
                slot.put_into(self.submit(1)[0])

    def drop(self, slot: JobSlot, why: str, cure: str) -> Iterator[Event]:
        """Do without a slot; raise SetupError if it was the last one."""
        yield Note(text=why)
        self.slots.remove(slot)
        slot.close()
        if not self.slots:
            raise SetupError(f"machine.executor: {why}. Try: {cure}")

    def give_back(self, now: float) -> None:
        """Let jobs end, or leave the queue, that have nothing to do for a while, as long as others are busy."""
        slots = self.job_slots()
        if not (self.ready.waits and any(slot.attempt for slot in slots)):
            return
        idle = [slot for slot in slots if slot.usable() and not slot.attempt and now - slot.idle_since > IDLE_SECONDS]
        waiting = [slot for slot in slots if not (slot.usable() or slot.attempt or slot.next_greeting)] if idle else []
        for slot in (*idle, *waiting):
            slot.close()
            self.slots.remove(slot)
        slurm.cancel([slot.job.key for slot in waiting])

    def take_more(self, now: float) -> None:
        """Submit another job if there is more to do than slots, up to the number that the config says."""
        slots = self.job_slots()
        busy = all(slot.attempt and not slot.lost for slot in slots)  # lost ones are looked at first
        fits = len(slots) < self.count and not self.ready.waits and busy
        if fits and now - self.grown_at > LISTEN_SECONDS * 10:
            self.grown_at = now
            self.slots += [JobSlot(self.terms, job, self.inbox) for job in self.submit(1)]

    def say_what_is_waited_for(self, now: float) -> Iterator[Event]:
        """Say once why no job runs."""
        slots = self.job_slots()
        if any(slot.usable() for slot in slots):
            self.waiting_since, self.told = now, False
        elif now - self.waiting_since > SILENT_SECONDS and not self.told:
            self.told = True
            reasons = sorted({slot.state.reason for slot in slots if slot.state.reason not in ("", "None")})
            yield Note(text=f"waiting for Slurm to start a job ({', '.join(reasons) or 'it gives no reason'})")

    def close(self) -> None:
        """Cancel all jobs and wait a moment for their end; the next driver waits for those that take longer."""
        super().close()
        self.slots.clear()
        with suppress(SetupError):  # Slurm does not answer
            slurm.cancel([job.key for job in self.jobs])
            until = time.monotonic() + END_SECONDS
            while self.jobs and time.monotonic() < until:
                known = slurm.states(self.folder)
                for job in [job for job in self.jobs if known.get(job.key, slurm.GONE).state in slurm.ENDED]:
                    job.remove()
                    self.jobs.remove(job)
                time.sleep(LISTEN_SECONDS if self.jobs else 0)
        with suppress(OSError):  # there are none, or some have not ended yet
            self.folder.jobs.rmdir()

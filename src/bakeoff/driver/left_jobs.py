"""Jobs of Slurm that a driver has left, because it was killed: before a run folder is used again, they must be quiet.

Two processes never write into one run's folder: a job answers a call only after its run has ended, and otherwise Slurm
says that the job has no process any more.
"""

import time
from collections.abc import Callable
from contextlib import suppress

from bakeoff.driver import slurm
from bakeoff.driver.job_channel import Job, jobs_in
from bakeoff.errors import SetupError
from bakeoff.store.run_folder import Folder

LOOK_SECONDS = 1.0  # between two looks at the jobs
SAY_SECONDS = 5.0  # after which the user is told what is waited for


def known_states(folder: Folder) -> dict[str, slurm.JobState]:
    """Return the states of jobs; raise SetupError if Slurm does not say them."""
    try:
        return slurm.states(folder)
    except SetupError as error:
        raise SetupError(
            f"{folder.jobs}: jobs of Slurm may still write into this folder, and Slurm does not say ({error}). Try: on "
            "a login node of its cluster, or remove jobs/ if they have ended"
        ) from None


def taken_over(folder: Folder, session: str, spec: str, most: int, say: Callable[[str], None]) -> list[Job]:
    """Return the jobs that wait for this session, or for their start, once all jobs of a folder are quiet.

    At most so many are kept, and none that was submitted with another `spec`; the others are ended.
    """
    found = jobs_in(folder)
    alike = [job for job in found if job.spec() == spec]
    kept, others = alike[:most], [job for job in found if job not in alike[:most]]
    if not found:
        return []
    known = known_states(folder)  # before anything is ended
    slurm.cancel([job.key for job in others if job.key in known])
    for job in kept:
        job.call(session, spec)
    began, greeted, told = time.monotonic(), set[str](), False
    while True:
        for job in kept:
            greeted |= {job.key for said in job.heard.new() if said.get("session") == session}
        known = known_states(folder)
        there = {job.key: known.get(job.key, slurm.GONE).state for job in found}
        for job in found:
            if there[job.key] in slurm.ENDED:
                job.remove()
        kept = [job for job in kept if there[job.key] not in slurm.ENDED]
        restless = [job for job in kept if job.key not in greeted and there[job.key] != "PENDING"]
        restless += [job for job in others if there[job.key] not in slurm.ENDED]
        if not restless:
            return kept
        if not told and time.monotonic() - began > SAY_SECONDS:
            told = True
            say(f"waiting for {len(restless)} jobs of an earlier session to save and end")
        time.sleep(LOOK_SECONDS)


def ended(folder: Folder, say: Callable[[str], None]) -> None:
    """End all jobs of a folder, where this session does not use Slurm."""
    taken_over(folder, "", "", 0, say)
    with suppress(OSError):
        folder.jobs.rmdir()

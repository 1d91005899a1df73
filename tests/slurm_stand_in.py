"""A stand-in for Slurm with its jobs in threads of this process; a job can be lost, queued again and cancelled."""

import itertools
import threading

from bakeoff.driver import left_jobs, node, slurm, slurm_executor, slurm_node
from bakeoff.errors import SetupError
from bakeoff.store.run_folder import Folder
from tests.ray_stand_in import InlineServer


class ThreadJob(slurm_node.JobNode):
    """A job whose process can be killed."""

    dead = False

    def is_left(self):
        """Return whether the job is to end."""
        return self.dead or super().is_left()

    def pass_on(self, seconds):
        """Pass nothing on once it is killed."""
        if not self.dead:
            super().pass_on(seconds)


class Slurm:
    """Answers Slurm's commands. `most` jobs run at the same time; `asked` has all that was asked."""

    def __init__(self, folder, most=9):
        self.folder, self.most = Folder(folder), most
        self.asked, self.states, self.names, self.running = [], {}, {}, {}
        self.numbers = itertools.count(1)
        self.refusal = self.silent = self.others = None

    def __call__(self, *words, stdin=None):
        self.asked.append(words)
        if self.silent:
            raise SetupError(self.silent)
        return getattr(self, words[0])(words[1:])

    def sinfo(self, words):
        return "main*|up|(null)\nold|down|gpu:1\n"

    def sbatch(self, words):
        if self.refusal:
            raise SetupError(self.refusal)
        if "--test-only" in words:
            return ""
        number = next(self.numbers)
        for index in range(int(option(words, "array").split("-")[-1]) + 1):
            self.states[f"{number}_{index}"] = "PENDING"
            self.names[f"{number}_{index}"] = option(words, "job-name")
        return f"{number}\n"

    def squeue(self, words):
        for key in [key for key, state in self.states.items() if state == "PENDING"][: self.most - len(self.running)]:
            self.begin(key)
        named = [key for key in self.states if self.names[key] == option(words, "name")]
        return "".join(f"{key}|{self.states[key]}|Resources\n" for key in named)

    def scancel(self, words):
        for key in words[1:]:
            if self.states[key] in ("PENDING", "RUNNING"):
                self.end(key, "CANCELLED")
        return ""

    def begin(self, key):
        """Let a job run."""
        self.states[key] = "RUNNING"
        self.running[key] = job = ThreadJob(self.folder, key, node.Node("cpu"), 10, 600, self.others)
        threading.Thread(target=self.serve, args=(key, job), daemon=True).start()

    def serve(self, key, job):
        job.serve()
        if self.running.get(key) is job:
            self.running.pop(key)
            self.states[key] = "COMPLETED"

    def end(self, key, state):
        """Let a job end, or be queued again."""
        job = self.running.pop(key, None)
        if job:
            job.dead = True
            for server in job.node.servers.values():
                server.gone = True
        self.states[key] = state

    def job_of(self, server):
        """Return the key of the job that has a server of runs."""
        return next(key for key, job in self.running.items() if server in job.node.servers.values())


def option(words, name):
    """Return the value of an option among words."""
    return next(word.partition("=")[2] for word in words if word.startswith(f"--{name}="))


def installed(patch, cluster):
    """Let bakeoffs use this stand-in, without its pauses."""
    patch.setattr(slurm, "asked", cluster)
    patch.setattr(node, "RunServer", InlineServer)
    patch.setattr(slurm_node, "HEAR_SECONDS", 0.02)
    for name in ("LISTEN_SECONDS", "ASK_SECONDS"):
        patch.setattr(slurm_executor, name, 0.02)
    patch.setattr(left_jobs, "LOOK_SECONDS", 0.02)
    return cluster

"""Child processes of bakeoff end with their parent, whenever that ends."""

import os
import re
import subprocess
import sys
import time

import pytest

from bakeoff.child_process import child, command, end_with_parent
from bakeoff.compute.run.request import forked
from tests.test_imports import SOURCE, modules


@pytest.mark.parametrize("first", [True, False])
def test_a_process_ends_also_if_its_parent_has_ended_before_it_asked_for_that(first):
    told, telling = os.pipe()

    def started_by(parent):
        while first and os.getppid() == parent:
            time.sleep(0.01)
        end_with_parent(parent)
        os.write(telling, b"alive")
        return 0

    def starts():
        parent = os.getpid()
        if os.fork() == 0:
            os._exit(started_by(parent))
        if not first:
            os.wait()
        return 0

    assert forked(starts) == 0
    os.close(telling)
    with os.fdopen(told) as said:
        assert said.read() == ("" if first else "alive")


def test_what_a_process_asked_for_before_it_was_killed_is_not_done():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def answer(parent):
        words = command("child_process", str(parent), "compute.run.scorer", "place")
        done = subprocess.run(words, input='{"folder": "nowhere"}\n', capture_output=True, text=True)
        return done.returncode, done.stdout.strip()

    assert answer(ended.pid) == (1, "")
    assert answer(os.getpid()) == (0, '{"exit": 1}')
    assert child("compute.run.scorer")[-2:] == [str(os.getpid()), "compute.run.scorer"]


def test_only_what_slurm_starts_and_trackers_live_longer_than_who_starts_them():
    texts = {name: file.read_text() for name, file in modules(SOURCE).items()}
    lasting = {name for name, text in texts.items() if re.search(r"child_process import .*\bcommand\b", text)}
    assert lasting == {"driver.slurm", "driver.slurm_hosts", "progress.trackers"}

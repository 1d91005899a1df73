"""Child processes of bakeoff end with their parent, whenever that ends."""

import json
import os
import subprocess
import sys
import time

import pytest

from bakeoff.child_process import end_with_parent
from bakeoff.compute.run.request import forked

ANSWERING = "from bakeoff.compute.export.answer import answer; answer(lambda **asked: asked)"


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


def test_a_process_of_an_export_whose_parent_was_killed_while_it_started_does_no_work():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def answers(parent):
        asked = json.dumps({"folder": "a", "parent": parent})
        done = subprocess.run([sys.executable, "-c", ANSWERING], input=asked, capture_output=True, text=True)
        return done.returncode, done.stdout.strip()

    assert answers(ended.pid) == (1, "")
    assert answers(os.getpid()) == (0, '{"folder": "a"}')

"""Temporary folders: what a killed process left is removed, and nothing else."""

import subprocess
import sys
import tempfile

from bakeoff.store.scratch import scratch

HELD = """
import os, signal
from bakeoff.store.scratch import scratch
with scratch() as folder:
    (folder / "data").mkdir()
    (folder / "data/train.tokens.bin").write_bytes(bytes(99))
    (folder / "data/.test.tokens.bin.12-abcdef01.tmp").write_bytes(bytes(99))
    for name in ("config.yaml", ".config.yaml.12-abcdef01.tmp", "answer.json.part", "log.txt", "store"):
        (folder / name).write_text("a probe's, a metric's trial's, or that of ranks")
    print(folder, flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_plan_probe_trial_or_run_left_is_removed_by_the_next_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    left = process.stdout.readline().strip()
    dead = 2**22 + 1  # a number that no process has
    mine = tmp_path / f"bakeoff-{dead}-abcdefgh/data/train.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with scratch() as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted({folder.name, left.rpartition("/")[2],
                                                                            mine.parts[-3]})  # fmt: skip
    process.communicate("\n")
    with scratch() as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, mine.parts[-3]])
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine.parents[1]]

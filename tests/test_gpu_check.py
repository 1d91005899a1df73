"""The check of a GPU: some of its checks, with tiny shapes on the processor, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks/gpu_check.py"


def check(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_quick_checks_hold_on_a_processor():
    names = ["starts_and_reloads", "out_of_memory", "lent_base", "casts_of_peft"]
    done = check("--smoke", *names)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows[0]["device"]["device"] == "cpu"
    assert [row["check"] for row in rows[1:-1]] == names
    assert rows[-1]["failed"] == []


def test_without_a_gpu_it_says_so_and_computes_nothing():
    done = check("hashing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("torch finds no GPU here. Try: nvidia-smi, a build of torch for this GPU, or --smoke\n")

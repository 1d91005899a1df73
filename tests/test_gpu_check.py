"""The check of a GPU: some of its checks, with tiny shapes on the processor, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks/gpu_check.py"


def test_quick_checks_hold_on_a_processor():
    names = ["starts_and_reloads", "out_of_memory", "lent_base"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--smoke", *names], env=environment, capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows[0]["device"]["device"] == "cpu"
    assert [row["check"] for row in rows[1:-1]] == names
    assert rows[-1]["failed"] == []

"""The measurement of memory over rows calls what a bakeoff calls before its first run, and so must follow it."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks/flat_memory.py"


def test_memory_is_measured_of_reading_planning_encoding_and_loading():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--rows", "300", "--json"], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["rows"] == 300
    assert figures["driver"]["seconds"].keys() == {"read", "encode", "plan", "write"}
    assert figures["worker"]["seconds"].keys() == {"load", "order", "1000_batches"}
    assert min(figures[process]["above_bytes"] for process in ("driver", "worker")) > 0

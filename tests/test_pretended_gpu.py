"""Training and decoding on a pretended accelerator: all tensors are where they must be, and few steps wait for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "pretended_gpu.py"


def test_a_step_and_a_token_wait_for_an_accelerator_as_seldom_as_they_can():
    names = ["lora", "last_layers", "prompt_tuning"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *names], env=environment, capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["family"], row["method"]) for row in rows] == [(f, n) for f in ("llama", "t5") for n in names], (
        done.stderr
    )
    for row in rows:
        # For the loss; and transformers looks whether the positions of a causal model are packed.
        assert row["step"] == (2 if row["family"] == "llama" else 1), row
        # For the token; and transformers looks at a mask, of an encoder-decoder also when the text was read.
        assert 2 <= row["token"] < 2.2, row

"""Greedy decoding raced: `python benchmarks/decoding.py NAME FOLDER` decodes the race's prompts, in its own process.

Both contenders decode the same prompts, sorted by length, in batches of 16 and fp32, and put out the same number of
tokens: the seeded random model never ends a text, so that all rows run to the last token. Prints one JSON line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import load_base
from bakeoff.compute.model.device import choose, peak_bytes, reset_peak, wait
from bakeoff.data.tokens import load_tokens

BATCH_SIZE = 16
BATCHES = 3
NEW_TOKENS = 60


def hf_greedy(model: Any, prompts: list[list[int]], end: int, new_tokens: int) -> list[list[int]]:
    """Return HF generate's greedy outputs as its documentation has it: left padding with a mask, its own cache."""
    outputs = []
    for start in range(0, len(prompts), BATCH_SIZE):
        rows = prompts[start : start + BATCH_SIZE]
        width = max(len(row) for row in rows)
        ids = torch.tensor([[end] * (width - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        with torch.no_grad():
            grown = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, pad_token_id=end,
                use_cache=True,  # the embedded base's own generation config turns it off
            )  # fmt: skip
        # PEFT's soft prompts make generate return new tokens only
        outputs += (grown[:, width:] if grown.shape[1] > new_tokens else grown).tolist()
    return outputs


def main() -> None:
    """Decode once to warm up, once on the clock, and print the figures."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    device = choose("auto")
    base = load_base(str(folder), "fp32", device=device)
    if name != "bakeoff":  # transformers' own model, without our fused parts
        base.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(base.device)
    prompts = sorted((row.prompt for row in load_tokens(folder / "race.tokens.bin")), key=len, reverse=True)
    prompts = prompts[: BATCH_SIZE * BATCHES]

    def decode(rows: list[list[int]]) -> list[list[int]]:
        if name == "bakeoff":
            return generate(base, base.model, rows, NEW_TOKENS, BATCH_SIZE)
        return hf_greedy(base.model, rows, base.tokenizer.eos_token_id, NEW_TOKENS)

    decode([row[:8] for row in prompts[:2]])
    reset_peak(device)
    wait(device)
    start = time.perf_counter()
    outputs = decode(prompts)
    wait(device)
    seconds = time.perf_counter() - start
    tokens = sum(len(output) for output in outputs)
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_bytes": peak_bytes(device), "outputs": outputs}))


if __name__ == "__main__":
    main()

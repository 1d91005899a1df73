"""What one document costs on the command line: `bakeoff generate`, and a script with transformers and PEFT."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bakeoff
from bakeoff.hub import EMBEDDED

OUTPUT_TOKENS = 40
DOCUMENT = "Return the number of rows in a table. Rows that were deleted are not counted, and neither is the header."
# The base in fp32, as bakeoff decodes; the same prompt.
SCRIPT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, prompt, tokens = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
ids = tokenizer(prompt, return_tensors="pt")
out = model.generate(**ids, max_new_tokens=int(tokens), do_sample=False, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def one_document(folder: Path, model: str, rounds: int) -> dict[str, Any]:
    """Return the median seconds in which a document is read and an output written, each time by a new process."""
    place, base = folder / f"document-{Path(model).name}", EMBEDDED if model == "base" else Path(model)
    (folder / "document.jsonl").write_text(json.dumps({"document": DOCUMENT, "summary": "Count rows."}) + "\n")
    results = bakeoff.run(
        {
            "model": model, "data": dict.fromkeys(("train", "validation", "test"), str(folder / "document.jsonl")),
            "entries": {"lora": {"r": 8}}, "output": str(place), "tune": "off", "baselines": ["base"],
            "protocol": {"epochs": 1, "seeds": 1}, "generation": {"max_new_tokens": OUTPUT_TOKENS},
        },
        display="none",
    )  # fmt: skip
    adapter, template = results.entry("lora").adapter, results.folder.plan().template
    prompt = template.replace("{{ document }}", DOCUMENT)
    commands = {
        "bakeoff": [sys.executable, "-m", "bakeoff", "generate", str(place)],
        "script": [sys.executable, "-c", SCRIPT, str(base), str(adapter), prompt, str(OUTPUT_TOKENS)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    outputs = dict.fromkeys(commands, "")
    for _ in range(rounds + 1):  # the first one warms the file cache
        for name, words in commands.items():
            start = time.perf_counter()
            done = subprocess.run(words, input=DOCUMENT, capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - start)
            outputs[name] = done.stdout.strip()
    found: dict[str, Any] = {f"{name}_seconds": statistics.median(taken[1:]) for name, taken in seconds.items()}
    ratios = [script / ours for ours, script in zip(seconds["bakeoff"], seconds["script"], strict=True)]
    return found | {"ratio": statistics.median(ratios[1:]), "equal": outputs["bakeoff"] == outputs["script"]}

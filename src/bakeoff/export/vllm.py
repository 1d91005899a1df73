"""The command that serves an exported LoRA with vLLM, and a request as in the evaluation."""

import shlex
from pathlib import Path

from bakeoff.export.job import Job
from bakeoff.export.requests import curl
from bakeoff.export.vllm_support import RANKS, largest_rank
from bakeoff.report.cards import on_hub
from bakeoff.store.checksums import read_mapping

PLACE = "path/of/this/folder"


def serve_command(job: Job, folder: Path, base: str, adapter: str) -> str:
    """Return the command that serves the adapter in `folder`; `base` and `adapter` are the places that it names."""
    plan, peft = job.folder.plan(), read_mapping(folder / "adapter_config.json")
    rank = largest_rank(peft)
    words = [
        "vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(min(r for r in RANKS if r >= rank)),
        "--lora-modules", f"{job.run.entry}={adapter}", "--max-model-len", str(plan.max_tokens), "--generation-config",
        "vllm",
    ]  # fmt: skip
    return shlex.join(words)


def served_by_vllm(job: Job, folder: Path) -> str:
    """Return what the card says about serving the adapter, without a folder of this machine."""
    base = job.document.model.name if on_hub(job.document) else "path/of/the/base"
    chat = job.folder.plan().chat
    stops = {"stop_token_ids": chat.ends} if chat else {}  # vLLM knows only the tokenizer's end of text
    request = curl(job.document, "localhost:8000", model=job.run.entry, **stops)
    return f"```\n{serve_command(job, folder, base, PLACE)}\n{request}\n```\n\nThe check did not use vLLM."

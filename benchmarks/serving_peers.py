"""What people put together today: HF generate on a base with PEFT's adapters, and set_adapter before each request.

`serving_peers.py set_adapter FOLDER ENTRY ...` reads requests as JSON from standard input, answers them one after the
other and prints seconds, tokens and outputs. `serving_peers.py wrapper FOLDER ENTRY ...` serves them over HTTP, with
Starlette and uvicorn as FastAPI does, one at a time, and prints its address. No token ends an output. FOLDER is a
bakeoff of LoRA entries.
"""

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from bakeoff.compute.decoding.summarizer import context_of
from bakeoff.compute.model.base import load_base
from bakeoff.config.planned import trusted_config
from bakeoff.data.asking import Prompts
from bakeoff.hub import model_folder
from bakeoff.results import load_results


class Peer:
    """A base with LoRA adapters in memory, and HF generate."""

    def __init__(self, folder: Path, entries: list[str]):
        results = load_results(folder)
        config = trusted_config(results.folder)
        base = load_base(config.model, "fp32", config.pin)  # its tokenizer and context alone are used
        self.tokenizer, self.lock = base.tokenizer, threading.Lock()
        self.prompts = Prompts(results.folder, config, base.tokenizer, False, context_of(base))
        model = AutoModelForCausalLM.from_pretrained(model_folder(config.model, config.pin), dtype=torch.float32)
        for entry in entries:
            place = str(results.entry(entry).adapter)
            if isinstance(model, PeftModel):
                model.load_adapter(place, adapter_name=entry)
            else:
                model = PeftModel.from_pretrained(model, place, adapter_name=entry)
        self.model = model.eval()
        self.model.generation_config.eos_token_id = None  # all contenders write equally many tokens

    def complete(self, model: str, prompt: str, max_tokens: int, **_: Any) -> tuple[str, int]:
        """Return an output's text, and its tokens."""
        ids = torch.tensor([self.prompts.rows([prompt])[0].prompt])
        with self.lock, torch.no_grad():
            self.model.set_adapter(model.partition("/")[2])
            made = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
                max_new_tokens=max_tokens, pad_token_id=0,
            )[0, ids.shape[1] :].tolist()  # fmt: skip
        return self.prompts.texts([made])[0], len(made)


def answer_all(peer: Peer, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Answer requests one after the other; the first two are answered before, to warm up."""
    for fields in requests[:2]:
        peer.complete(**fields)
    began = time.perf_counter()
    found = [peer.complete(**fields) for fields in requests]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(n for _, n in found), "outputs": [text for text, _ in found]}


def serve(peer: Peer) -> None:
    """Serve completions over HTTP, as one event with the whole text."""
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def completions(request: Request) -> Response:
        fields = await request.json()
        text, tokens = await run_in_threadpool(partial(peer.complete, **fields))
        event = {"choices": [{"text": text}], "usage": {"completion_tokens": tokens}}
        return Response(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n", media_type="text/event-stream")

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # before its address is told
    app = Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    kind, place, *names = sys.argv[1:]
    made = Peer(Path(place), names)
    if kind == "wrapper":
        serve(made)
    else:
        print(json.dumps(answer_all(made, json.load(sys.stdin))))

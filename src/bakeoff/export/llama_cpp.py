"""GGUF by llama.cpp's own programs: its converter makes the file, and its server answers the test split with it."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.data.examples import Example
from bakeoff.data.forms import stops_of
from bakeoff.data.prompt_format import plain
from bakeoff.data.token_file import tested
from bakeoff.data.tokenizer_checks import INDENT
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.export.job import Job
from bakeoff.export.prompts import Prompts
from bakeoff.export.requests import chat_request
from bakeoff.hub import TOKENIZER, model_folder
from bakeoff.store.checksums import read_mapping
from bakeoff.store.files import write_json

CONVERTER, SERVER = "convert_hf_to_gguf.py", "llama-server"
BELOW = ("", "bin", "build/bin")  # where programs are in a folder of llama.cpp
TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "q8_0": "q8_0", None: "auto"}
HOW = (
    "Try: git clone https://github.com/ggml-org/llama.cpp, then --llama-cpp FOLDER; docs/export.md says how to build it"
)
READY_SECONDS = 300.0  # until the server has read its model
FILE = "model.gguf"
GREEDY = {"temperature": 0, "cache_prompt": False}
SURELY = 1e4  # added to a logit


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp's programs on this machine; `server` is None where it was not built."""

    converter: Path
    server: Path | None


def find(folder: str | Path | None) -> LlamaCpp:
    """Return the programs in a folder of llama.cpp, or on PATH; raise SetupError if there is no converter."""
    if folder is None:
        converter, server = shutil.which(CONVERTER), shutil.which(SERVER)
    else:
        places = [Path(folder) / below for below in BELOW]
        converter, server = (next((str(p / n) for p in places if (p / n).is_file()), None) for n in (CONVERTER, SERVER))
    if converter is None:
        where = f"not in {folder}" if folder else "not on PATH"
        raise SetupError(f"llama.cpp's {CONVERTER} is {where}. {HOW}")
    return LlamaCpp(Path(converter).absolute(), Path(server).absolute() if server else None)


def check_base(programs: LlamaCpp, job: Job, folder: Path) -> None:
    """Raise SetupError if the converter does not know the base's architecture or tokenizer; `folder` is for files."""
    base = model_folder(job.config.model, job.config.pin, ask_hub=False)
    folder.mkdir()
    for file in (file for pattern in TOKENIZER for file in base.glob(pattern)):
        shutil.copyfile(file, folder / file.name)
    convert(programs, folder, folder / FILE, ["--vocab-only"])
    shutil.rmtree(folder)


def convert(programs: LlamaCpp, model: Path, out: Path, how: list[str]) -> None:
    """Convert a model folder into one file; raise SetupError with the converter's reason if it refuses."""
    config = read_mapping(model / "config.json")
    if config.get("model_type") == "gpt2":  # the converter asks for a name that transformers 5 does not write
        write_json(model / "config.json", {"n_ctx": config.get("n_positions"), **config})
    words = [sys.executable, str(programs.converter), str(model), "--outfile", str(out), *how]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        missing = re.search(r"No module named '([\w.]+)'", reason)
        cure = f"pip install {missing[1]}" if missing else "--to merged, or a llama.cpp that knows this base"
        raise SetupError(f"llama.cpp's converter refuses {model_name(model)} ({reason:.300}). Try: {cure}")


def model_name(model: Path) -> str:
    """Return what a folder is called in a message: it is temporary."""
    return f"a model of type {read_mapping(model / 'config.json').get('model_type')!r:.80}"


def read_back(programs: LlamaCpp, job: Job, file: Path, prompts: Prompts | None) -> dict[str, Any]:
    """Return what llama.cpp's server answers for the test examples, as `compute.export.read_back` does.

    Prompts are given as ids. It reports no losses of given texts, so "losses" is None. `prompts` are those of an
    instruct base.
    """
    plan = job.folder.plan()
    assert plan.output_tokens is not None  # a stored plan has it
    examples, rows = tested(job.folder, job.options.limit)
    outputs = []
    with serving(programs, file, plan.max_tokens + plan.output_tokens) as address:
        started = time.perf_counter()
        for row in rows:
            asked = {"prompt": row.prompt, "n_predict": plan.output_tokens, **GREEDY}
            outputs.append(plain(ask(f"{address}/completion", asked)["content"], INDENT in plan.texts))
        seconds = time.perf_counter() - started
        alike = plain_parity if prompts is None else partial(chat_parity, prompts=prompts)
        found = alike(address, job, examples, rows)
        ends = all(ends_at(address, rows[0].prompt, end) for end in {*end_of(rows), *stops_of(plan)})
    parity = {"uncut": sum(not row.cut for row in rows), "ends": ends}
    return {"outputs": outputs, "losses": None, "seconds": seconds} | parity | found


def plain_parity(address: str, job: Job, examples: list[Example], rows: list[Tokens]) -> dict[str, int]:
    """Return how many documents have the ids of training, and how many "whole" prompts as one text."""
    template = prompt_template(job.document.template)
    same, whole = 0, 0
    for example, row in zip(examples, rows, strict=True):
        ids = tokenized(address, example.document)
        same += ids[: row.kept] == row.prompt[row.head : row.head + row.kept]
        before, after = example.around or template.around({DOCUMENT: ""})
        text = f"{before}{example.document}{after}"
        whole += not row.cut and tokenized(address, text, begin=True, special=True) == row.prompt
    return {"prompts": same, "whole": whole}


def chat_parity(
    address: str, job: Job, examples: list[Example], rows: list[Tokens], prompts: Prompts
) -> dict[str, int]:
    """Return how many prompts have the ids of training, and how many "whole" ones if llama.cpp or Ollama writes them.

    The former are texts of the base's own chat template. llama.cpp writes what it makes of the template in the file.
    """
    same, whole = 0, 0
    for example, row, turns, text in zip(examples, rows, prompts.turns, prompts.texts, strict=True):
        ids, until = tokenized(address, text, special=True), len(row.prompt)
        if row.cut and not example.turns:  # all of the document is in the text
            ids, until = ids[: row.head + row.kept], row.head + row.kept
        same += ids == row.prompt[:until]
        if row.cut:
            continue
        if job.options.to == "ollama":
            own = prompts.written(turns, example.document)
        else:
            own = ask(f"{address}/apply-template", chat_request(job.document, turns))["prompt"]
        whole += own is not None and tokenized(address, own, begin=True, special=True) == row.prompt
    return {"prompts": same, "whole": whole}


def end_of(rows: list[Tokens]) -> list[int]:
    """Return the id that ends the shortest target: it was not cut."""
    return min((row.target for row in rows), key=len)[-1:]


def ends_at(address: str, prompt: list[int], end: int) -> bool:
    """Return whether an output ends at this id, which is made the most probable one."""
    asked = {"prompt": prompt, "n_predict": 2, "logit_bias": [[end, SURELY]], **GREEDY}
    return bool(ask(f"{address}/completion", asked)["stop_type"] == "eos")


def tokenized(address: str, text: str, begin: bool = False, special: bool = False) -> list[int]:
    """Return the ids of a text; `begin`: with those that llama.cpp puts before it; `special` tokens in it count."""
    asked = {"content": text, "add_special": begin, "parse_special": special}
    return list(ask(f"{address}/tokenize", asked)["tokens"])


def ask(url: str, asked: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the server answers."""
    data = None if asked is None else json.dumps(asked).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@contextmanager
def serving(programs: LlamaCpp, file: Path, context: int) -> Iterator[str]:
    """Run llama.cpp's server with a file, and yield its address; end it afterwards."""
    assert programs.server is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(programs.server), "-m", str(file), "--host", "127.0.0.1", "--port", str(port), "-c", str(context)]
    log = file.with_name("server.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [*words, "-c", str(context), "-np", "1", "--jinja"], stdout=out, stderr=subprocess.STDOUT
        )
        try:
            wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            log.unlink(missing_ok=True)


def wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    """Return once the server is ready; raise SetupError if it ends, or is not ready in time."""
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < READY_SECONDS:
        try:
            if ask(url, None).get("status") == "ok":
                return
        except (OSError, ValueError):  # not listening yet, or loading
            time.sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    wrong = [line for line in lines if "error" in line.lower()] or lines
    raise SetupError(f"llama.cpp's server cannot run the file ({wrong[-1]:.300}). Try: --no-check")

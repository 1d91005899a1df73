"""`bakeoff serve` measured over HTTP: `python benchmarks/serving.py [--base FOLDER] [--parts swap,load,...]`.

A quick bakeoff of real runs (eight LoRA entries and four other methods, a few steps each) is made first, in `--place`.
Every contender gets the same requests, and no token ends an output, so that all write equally many: bakeoff's server;
HF generate with PEFT's set_adapter, request after request, without HTTP (`set_adapter`); and that behind a small server
of Starlette, which FastAPI is built on (`wrapper`). Rounds alternate between the contenders, and a table has medians
and ratios. What was measured is kept in `--keep`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bakeoff
from bakeoff.results import load_results
from measured import Kept
from race import SHAPES
from race import prepare as random_model
from serving_client import Client, Reply

HERE = Path(__file__).parent
LORAS = [f"lora{i}" for i in range(8)]
OTHERS = ["ia3", "prompt_tuning", "last_layers", "dora"]
MIXES = {"base": ["base"], "1 LoRA": ["lora0"], "8 LoRAs": LORAS, "5 methods": ["lora0", *OTHERS]}
CLIENTS = (1, 4, 16)
PARTS = ("swap", "load", "throughput", "peers", "first")
OUTPUT_TOKENS = 48


def entries_of(base: str) -> dict[str, dict[str, Any]]:
    """Return the entries' settings; a large base needs lower rates, or one step makes it write the same everywhere."""
    rate = 2e-3 if base == "base" else 2e-4
    loras = {name: {"method": "lora", "r": 8, "learning_rate": rate * 0.8**i} for i, name in enumerate(LORAS)}
    return loras | {
        "ia3": {}, "prompt_tuning": {"num_virtual_tokens": 20}, "last_layers": {"blocks": 1, "head": False},
        "dora": {"r": 8, "learning_rate": rate / 2},
    }  # fmt: skip


def prepare(place: Path, base: str) -> Path:
    """Run the bakeoff that is served, if it is not there already; return its folder."""
    folder = place / f"serving-{Path(base).name}"
    limits = (64, 64) if base == "base" else (4, 16)  # a row of a step on a large base takes seconds
    config = {
        "name": "bench", "model": base,
        "data": {"source": "docstrings", "train_limit": limits[0], "validation_limit": 8, "test_limit": limits[1]},
        "entries": entries_of(base), "tune": None, "baselines": ["base"], "output": str(folder),
        "protocol": {"epochs": 1, "batch_size": 16, "max_tokens": 192, "seeds": 1, "precision": "fp32"},
        "generation": {"max_new_tokens": 4}, "metrics": ["rouge"],  # requests say how many tokens they want
    }  # fmt: skip
    bakeoff.run(config, display="plain")
    return folder


def documents(folder: Path) -> list[str]:
    """Return the documents of the test split."""
    return [example.document for example in load_results(folder).folder.examples("test")]


@contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[Client, int]]:
    """Yield a client and the process of a server, which prints its address once it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Client(process.stdout.readline().strip()), process.pid
    finally:
        process.terminate()
        process.wait(60)


def ours(folder: Path) -> Any:
    """Return our server, in its process; no token ends an output."""
    return started([sys.executable, str(HERE / "serving_endless.py"), str(folder), "--port", "0", "--no-log"])


def requests_of(mix: Sequence[str], texts: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Return requests for the models of a mix, in turn."""
    return [
        {"model": f"bench/{mix[i % len(mix)]}", "prompt": texts[i % len(texts)], "max_tokens": OUTPUT_TOKENS}
        for i in range(count)
    ]


def burst(client: Client, requests: Sequence[dict[str, Any]], clients: int) -> tuple[float, list[Reply]]:
    """Return how long requests take that so many clients send, each one after its last is answered, and the answers."""
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        replies = [*pool.map(lambda fields: client.complete(**fields), requests)]
        return time.perf_counter() - began, replies


def swap(client: Client, texts: Sequence[str], count: int) -> dict[str, float]:
    """Return the median milliseconds to a first token, where the adapter is that of the request before, and not."""
    names = [f"bench/{name}" for name in LORAS]
    same, other = [], []
    for i in range(count):
        for name, found in ((names[i % 8], other), (names[i % 8], same)):
            found.append(client.complete(model=name, prompt=texts[0], max_tokens=1).first)
    return {"same": 1e3 * statistics.median(same), "swapped": 1e3 * statistics.median(other)}


def load(client: Client, count: int) -> dict[str, float]:
    """Return the median milliseconds in which an adapter is loaded from disk, over HTTP, by method."""
    found = {}
    for entry in ("lora0", *OTHERS):
        seconds = []
        for _ in range(count):
            client.call("DELETE", f"/v1/adapters/bench/{entry}")
            began = time.perf_counter()
            client.call("POST", "/v1/adapters", {"model": f"bench/{entry}"})
            seconds.append(time.perf_counter() - began)
        found[entry] = 1e3 * statistics.median(seconds)
    return found


def throughput(client: Client, texts: Sequence[str], mix: str, clients: int, count: int) -> dict[str, Any]:
    """Return output tokens per second of requests for a mix."""
    requests = requests_of(MIXES[mix], texts, count)
    seconds, replies = burst(client, requests, clients)
    tokens = sum(reply.tokens for reply in replies)
    return {"tokens_per_second": tokens / seconds, "tokens": tokens, "outputs": [reply.text for reply in replies]}


def first_among_others(client: Client, texts: Sequence[str], count: int) -> dict[str, float]:
    """Return the milliseconds to the first token of a short request, alone and while 15 others are written."""
    fields = {"model": "bench/lora0", "prompt": texts[0][:80], "max_tokens": 1}
    alone = [client.complete(**fields).first for _ in range(count)]
    ends = threading.Event()
    gaps: list[float] = []

    def write(i: int) -> None:
        while not ends.is_set():
            reply = client.complete(model=f"bench/{MIXES['8 LoRAs'][i % 8]}", prompt=texts[i], max_tokens=OUTPUT_TOKENS)
            gaps.append(reply.seconds / max(1, reply.tokens))

    with ThreadPoolExecutor(15) as pool:
        others = [pool.submit(write, i) for i in range(15)]
        time.sleep(0.5)
        beside = [client.complete(**fields).first for _ in range(count)]
        ends.set()
        for other in others:
            other.result()
    step = statistics.median(gaps)
    found = statistics.median(beside)
    return {"alone": 1e3 * statistics.median(alone), "beside": 1e3 * found, "step": 1e3 * step, "steps": found / step}


def peer(folder: Path, kind: str, texts: Sequence[str], mix: str, count: int) -> dict[str, Any]:
    """Return output tokens per second of HF generate with set_adapter, for the same requests."""
    requests = requests_of(MIXES[mix], texts, count)
    command = [sys.executable, str(HERE / "serving_peers.py"), kind, str(folder), *MIXES["8 LoRAs"]]
    if kind == "wrapper":
        with started(command) as (client, _):
            burst(client, requests[:2], 1)
            seconds, replies = burst(client, requests, 16)
            tokens, outputs = sum(reply.tokens for reply in replies), [reply.text for reply in replies]
    else:
        done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        seconds, tokens, outputs = row["seconds"], row["tokens"], row["outputs"]
    return {"tokens_per_second": tokens / seconds, "tokens": tokens, "outputs": outputs}


def measure(folder: Path, kept: Kept, parts: Sequence[str], rounds: int, count: int, several: Sequence[int]) -> None:
    """Take every measurement of the parts that was not taken before."""
    texts = documents(folder)

    def take(name: str, work: Callable[[], Any]) -> None:
        figures = kept.take(name, work)
        shown = {key: round(value, 2) for key, value in figures.items() if isinstance(value, float)}
        print(f"{name}: {shown}", file=sys.stderr, flush=True)

    for number in range(rounds):
        with ours(folder) as (client, _):
            burst(client, requests_of([*LORAS, *OTHERS], texts, 16), 4)
            if "swap" in parts:
                take(f"swap {number}", lambda: swap(client, texts, count))
            if "load" in parts:
                take(f"load {number}", lambda: load(client, 3))
            if "first" in parts:
                take(f"first {number}", lambda: first_among_others(client, texts, count))
            for mix in MIXES if "throughput" in parts else ():
                for clients in several:
                    work = lambda m=mix, c=clients: throughput(client, texts, m, c, count)  # noqa: E731
                    take(f"throughput {number} {mix} {clients}", work)
        for kind in ("set_adapter", "wrapper") if "peers" in parts else ():
            for mix in ("1 LoRA", "8 LoRAs"):
                take(f"peer {number} {kind} {mix}", lambda k=kind, m=mix: peer(folder, k, texts, m, count))


def summary(kept: Kept, rounds: int) -> dict[str, Any]:
    """Return medians over the rounds, and the ratios that the goals are about; also how many outputs are equal.

    A ratio is the median over rounds of the two values of one round, so that a machine's slow minutes fall on both.
    """

    def median(name: str, key: str = "tokens_per_second") -> float | None:
        found = [kept.found[n][key] for i in range(rounds) if (n := name.format(i)) in kept.found]
        return statistics.median(found) if found else None

    def ratio(one: str, other: str) -> float | None:
        rows = [(kept.found.get(one.format(i)), kept.found.get(other.format(i))) for i in range(rounds)]
        found = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in rows if a and b]
        return statistics.median(found) if found else None

    speeds = {f"{mix}, {c} clients": median(f"throughput {{}} {mix} {c}") for mix in MIXES for c in CLIENTS}
    peers = {
        f"{k}, {m}": median(f"peer {{}} {k} {m}") for k in ("set_adapter", "wrapper") for m in ("1 LoRA", "8 LoRAs")
    }
    alone, mixed = (f"throughput {{}} {mix} 16" for mix in ("base", "8 LoRAs"))
    same = [
        a == b
        for kind in ("set_adapter", "wrapper")
        for a, b in zip(
            kept.found.get("throughput 0 8 LoRAs 16", {}).get("outputs", ()),
            kept.found.get(f"peer 0 {kind} 8 LoRAs", {}).get("outputs", ()),
            strict=False,
        )
    ]
    return {
        "first token, same adapter (ms)": median("swap {}", "same"),
        "first token, another adapter (ms)": median("swap {}", "swapped"),
        "load (ms)": {entry: median("load {}", entry) for entry in ("lora0", *OTHERS)},
        "short request beside 15 others, first token (ms)": median("first {}", "beside"),
        "the same in decoding steps": median("first {}", "steps"),
        "tokens/s": speeds | peers,
        "8 LoRAs of the base alone, 16 clients": ratio(mixed, alone),
        "5 methods of the base alone, 16 clients": ratio("throughput {} 5 methods 16", alone),
        "8 LoRAs of set_adapter": ratio(mixed, "peer {} set_adapter 8 LoRAs"),
        "8 LoRAs of the wrapper": ratio(mixed, "peer {} wrapper 8 LoRAs"),
        "outputs equal to the peers'": f"{sum(same)} of {len(same)}",
    }


def main() -> None:
    """Read the command line, measure, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="base", help="folder, or a shape of race.py (gpt2); else the embedded one")
    parser.add_argument("--place", type=Path, default=Path("build/serving"), help="folder of the bakeoff")
    parser.add_argument("--keep", type=Path, help="file of measurements, from which it resumes")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", choices=CLIENTS, default=CLIENTS, help="at the same time")
    parser.add_argument("--requests", type=int, default=64, help="per measurement")
    asked = parser.parse_args()
    kept, base = Kept(asked.keep, f"{asked.base} {asked.requests}"), asked.base
    if base in SHAPES:
        base = str(asked.place / f"shape-{base}")
        if not Path(base).exists():
            random_model(Path(base), asked.base, 1)
    folder = prepare(asked.place, base)
    measure(folder, kept, asked.parts.split(","), asked.rounds, asked.requests, asked.clients)
    print(json.dumps(summary(kept, asked.rounds), indent=1))


if __name__ == "__main__":
    main()

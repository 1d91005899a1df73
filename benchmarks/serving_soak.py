"""A long load on `bakeoff serve`: `python benchmarks/serving_soak.py FOLDER [--requests 20000]`.

FOLDER is a bakeoff (that of benchmarks/serving.py, for example). Sixteen clients send requests for all its entries:
whole and streamed, with bad ones among them, and some go away in the middle, while adapters are unloaded and loaded.
Every answer is compared with that of `generate`. At the end: answers by kind, resident memory after a tenth and at the
end, and whether the server holds a row or a task that nobody waits for.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from bakeoff.results import load_results
from serving import documents, started
from serving_client import Client

CLIENTS = 16
PAUSE = 2.0  # seconds between an adapter that was loaded and the next that leaves
BAD = ({"prompt": 3}, {"model": "nothing"}, {"n": 2}, {"max_tokens": 10**6}, {"temperature": "hot"})


def wanted(folder: Path, texts: list[str]) -> dict[tuple[str, str], str]:
    """Return what `generate` writes, by entry and document."""
    found, results = {}, load_results(folder)
    for entry in results.entries:
        outputs = results.entry(entry).load().generate(texts)
        found.update({(entry, text): output for text, output in zip(texts, outputs, strict=True)})
    return found


class Soak:
    """One long load; `counts` are answers by kind."""

    def __init__(self, client: Client, name: str, answers: dict[tuple[str, str], str], kept: list[str]):
        self.client, self.name, self.answers, self.kept = client, name, answers, kept
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.keys = sorted(answers)

    def one(self, number: int) -> None:
        """Send one request, chosen by its number, and note what came of it."""
        chosen = random.Random(number)
        entry, text = chosen.choice(self.keys)
        fields = {"model": f"{self.name}/{entry}", "prompt": text}
        kind = chosen.random()
        if kind < 0.05:
            status, _ = self.client.call("POST", "/v1/completions", fields | chosen.choice(BAD))
            self.note("refused" if status in (400, 404) else f"bad request: {status}")
        elif kind < 0.1:
            self.leave(fields, chosen.random() < 0.5)
        elif kind < 0.55:
            status, body = self.client.call("POST", "/v1/completions", fields)
            self.judge(entry, text, status, body["choices"][0]["text"] if status == 200 else None)
        else:
            try:
                reply = self.client.complete(**fields)
            except RuntimeError as error:
                self.judge(entry, text, int(str(error)[:3]) if str(error)[:3].isdigit() else 0, None)
            else:
                self.judge(entry, text, 200, reply.text)

    def leave(self, fields: dict[str, str], streams: bool) -> None:
        """Send a request and close the connection before its end: at once, or in the middle of a stream."""
        own = Client(f"http://{self.client.host}:{self.client.port}")
        with closing(own.connection):
            own.begin("POST", "/v1/completions", fields | {"stream": streams})
            if streams:
                own.connection.getresponse().read(20)
        self.note("left")

    def judge(self, entry: str, text: str, status: int, output: str | None) -> None:
        """Note whether an answer is right; an unloaded adapter may be unknown for a while."""
        if status == 404 and entry not in self.kept:
            self.note("unloaded")
        elif status == 200:
            self.note("equal" if output == self.answers[entry, text] else "WRONG")
        else:
            self.note(f"LOST ({status})")

    def note(self, what: str) -> None:
        """Count an answer."""
        with self.lock:
            self.counts[what] += 1

    def change(self, ends: threading.Event) -> None:
        """Unload and load adapters in turn, until the load ends."""
        moving = sorted({entry for entry, _ in self.keys} - set(self.kept))
        while not ends.is_set():
            for entry in moving:
                self.client.call("DELETE", f"/v1/adapters/{self.name}/{entry}")
                time.sleep(0.05)
                self.client.call("POST", "/v1/adapters", {"model": f"{self.name}/{entry}"})
                self.note("loads")
                if ends.wait(PAUSE):
                    return


def resident(process: int) -> int:
    """Return a process's resident bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> int:
    """Read the command line, load the server, print what came of it; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    asked = parser.parse_args()
    texts = documents(asked.folder)[:24]
    answers = wanted(asked.folder, texts)
    entries = sorted({entry for entry, _ in answers})
    command = [sys.executable, "-m", "bakeoff", "serve", str(asked.folder), "--port", "0", "--no-log", "--queue", "100"]
    with started(command) as (client, process):
        name, ends = load_results(asked.folder).document.name, threading.Event()
        soak = Soak(client, name, answers, entries[: len(entries) // 2])
        changing = threading.Thread(target=soak.change, args=(ends,))
        changing.start()
        began, memory = time.perf_counter(), []
        with ThreadPoolExecutor(CLIENTS) as pool:
            for tenth in range(10):
                share = range(tenth * asked.requests // 10, (tenth + 1) * asked.requests // 10)
                list(pool.map(soak.one, share))
                memory.append(resident(process))
                print(f"{tenth + 1}0 %: {dict(soak.counts)}, {memory[-1] / 2**20:.0f} MiB", file=sys.stderr, flush=True)
        seconds = time.perf_counter() - began
        ends.set()
        changing.join()
        time.sleep(1)
        figures = {line.split(" ")[0]: float(line.split(" ")[1]) for line in client.text("/metrics").splitlines()
                   if line.startswith(("bakeoff_running_rows", "bakeoff_queue_rows"))}  # fmt: skip
    growth = memory[-1] / memory[1] - 1
    wrong = {kind: n for kind, n in soak.counts.items() if kind.startswith(("WRONG", "LOST", "bad"))}
    report = {"answers": dict(soak.counts), "seconds": round(seconds, 1), "memory_growth": round(growth, 4),
              "memory_mib": [round(m / 2**20) for m in memory], "left": figures}  # fmt: skip
    print(json.dumps(report, indent=1))
    return int(bool(wrong) or growth > 0.02 or any(figures.values()))


if __name__ == "__main__":
    sys.exit(main())

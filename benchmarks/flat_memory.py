"""Memory over rows: `python benchmarks/flat_memory.py --rows 1000000 [--words 12] [--format csv] [--json]`.

Writes a synthetic file to a temporary folder, then reads, plans and encodes it and writes the run folder in one
process, as `bakeoff run` does before its first run, and loads the tokens in another, as a run does. Peaks are of
resident memory, above what it was once everything was imported. One thread, no GPU; nothing is trained.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VOCABULARY = 5000
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
STEPS_SHOWN = 1000


def main() -> None:
    """Write the data, run both processes, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=12, help="mean words of a document; a summary has a quarter")
    parser.add_argument("--format", choices=["jsonl", "csv"], default="jsonl", help="of the data files")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", choices=PROCESSES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        print(json.dumps(PROCESSES[given.process](given.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="flat-memory-") as temporary:
        folder = Path(temporary)
        for split, rows in (("train", given.rows), ("validation", 100), ("test", 100)):
            write(folder / f"{split}.{given.format}", rows, given.words)
        size = (folder / f"train.{given.format}").stat().st_size
        figures: dict[str, Any] = {"rows": given.rows, "file_bytes": size}
        for name in PROCESSES:
            figures[name] = run(name, folder)
    print(json.dumps(figures) if given.json else table(figures))


def write(path: Path, rows: int, words: int) -> None:
    """Write seeded rows of made-up words."""
    chosen = random.Random(rows)
    names = ["".join(chosen.choices("abcdefghijklmnoprstuvwz", k=chosen.randint(2, 9))) for _ in range(VOCABULARY)]
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("document,summary\n")
        for _ in range(rows):
            words_of = chosen.choices(names, k=chosen.randint(words // 2, words * 3 // 2))
            document, summary = " ".join(words_of), " ".join(words_of[: 1 + words // 4])
            row = {"document": document, "summary": summary}
            file.write(f"{document},{summary}\n" if path.suffix == ".csv" else json.dumps(row) + "\n")


def run(process: str, folder: Path) -> dict[str, Any]:
    """Return what a process of its own reports."""
    command = [sys.executable, __file__, "--process", process, "--folder", str(folder)]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def drive(folder: Path) -> dict[str, Any]:
    """Read, plan, encode and write the run folder."""
    from bakeoff import running
    from bakeoff.compute.model.base import load_tokenizer
    from bakeoff.config.loading import load_config
    from bakeoff.data import prepared, shared
    from bakeoff.driver import counts, plan
    from bakeoff.store.run_folder import Folder

    data = {path.stem: str(path) for path in folder.glob("*.*") if path.stem in ("train", "validation", "test")}
    config = load_config({"data": data, "entries": ["lora"], "output": str(folder / "run")})
    tokenizer = load_tokenizer(config.model)
    stages = Stages()
    shared.load_or_count = stages.timed("read", shared.load_or_count)
    prepared.PreparedData.encode = stages.timed("encode", prepared.PreparedData.encode)
    counts.count(config, plan.checked_entries(config), tokenizer)  # imports the model's class
    run = Folder(folder / "run")
    with running.owned(run):
        with stages.stage("plan"):
            planned = plan.make_plan(config, tokenizer, run)
        with stages.stage("write"):
            running.prepare(run, config, planned, running.left_to_do(run, planned.document))
    return stages.figures()


def work(folder: Path) -> dict[str, Any]:
    """Load the tokens and make the tensors of an epoch's first batches."""
    from bakeoff.compute.training.batches import collate, epoch_batches
    from bakeoff.data.token_file import lengths_of, load_tokens
    from bakeoff.store.run_folder import Folder

    stages = Stages()
    with stages.stage("load"):
        rows = load_tokens(Folder(folder / "run").tokens_file("train"))
    with stages.stage("order"):
        batches = epoch_batches(lengths_of(rows).totals, 8, 0, 0)
    with stages.stage(f"{STEPS_SHOWN}_batches"):
        for members in batches[:STEPS_SHOWN]:
            collate([rows[i] for i in members], 0)
    return stages.figures()


PROCESSES = {"driver": drive, "worker": work}


class Stages:
    """Seconds of each stage, of the processor and by the clock, and the peak since all was imported."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self.imported = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        start, used = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = {
            "wall": round(time.perf_counter() - start, 2),
            "processor": round(time.process_time() - used, 2),
        }

    def timed(self, name: str, function: Any) -> Any:
        """Return the function with a stage of its own."""

        def call(*given: Any) -> Any:
            with self.stage(name):
                return function(*given)

        return call

    def figures(self) -> dict[str, Any]:
        """Return seconds and bytes."""
        above = resident("VmHWM") - self.imported
        return {"seconds": self.seconds, "imported_bytes": self.imported, "above_bytes": above}


def resident(name: str) -> int:
    """Return a line of this process's memory in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def table(figures: dict[str, Any]) -> str:
    """Return the figures as lines."""
    lines = [f"{figures['rows']:,} rows, {figures['file_bytes'] / 2**20:,.0f} MiB"]
    for name in PROCESSES:
        own = figures[name]
        times = ", ".join(f"{stage} {s['processor']:.1f} s ({s['wall']:.1f})" for stage, s in own["seconds"].items())
        lines.append(
            f"{name}: {own['above_bytes'] / 2**20:,.0f} MiB above {own['imported_bytes'] / 2**20:,.0f}; {times}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

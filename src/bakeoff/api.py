"""The Python API: run, plan, load_results, and what they return. The command line is a thin skin over these."""

import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bakeoff.config import Config, dump_config, load_config
from bakeoff.costs import forecast
from bakeoff.display import Display, open_display
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.evaluation.summary import summarize
from bakeoff.executors.local import run_local
from bakeoff.executors.probes import run_probes
from bakeoff.forecast import Forecast
from bakeoff.journal import Journal
from bakeoff.planning import Plan, make_plan
from bakeoff.records import SPLITS, Folder, write_json, write_jsonl, write_text
from bakeoff.report import write_report
from bakeoff.results import Results
from bakeoff.scheduling import Schedule
from bakeoff.stopping import stoppable
from bakeoff.tracking import check_installed, tracked

Source = str | Path | dict[str, Any]
# When a bakeoff goes on.
FREE_TO_CHANGE = {"output", "safety", "trackers", "protocol.trunk_cache", "protocol.gradient_checkpointing"}


def read_config(source: Source, overrides: dict[str, Any] | None) -> Config:
    """Return the config; one that stands in its own run folder goes on there, from wherever it was started."""
    config = load_config(source, overrides)
    if isinstance(source, dict) or {"name", "output"} & set(overrides or {}):
        return config
    beside = Folder(Path(source).parent)
    if Path(source) != beside.config_file or not beside.plan_file.exists():
        return config
    return config.model_copy(update={"output": str(beside.path)})


def plan(source: Source, overrides: dict[str, Any] | None = None, probe: bool = False) -> dict[str, Any]:
    """Return what would run: runs, steps, exact parameter counts. Reads the data, writes nothing.

    With `probe` each entry takes some steps on its longest batch, in a process of its own, and the plan has a
    `forecast` of seconds and memory.
    """
    config = read_config(source, overrides)
    from bakeoff.model import load_tokenizer  # takes seconds, and a mistake in the config is told before

    with named(source):
        config = pinned(config, Folder(config.folder))
        try:
            tokenizer = load_tokenizer(config.model, config.pin)
        except SetupError:
            tokenizer = None
        if not probe:
            return make_plan(config, tokenizer).document
        if tokenizer is None:
            raise SetupError(f"--probe: {config.model} is not on this machine. Try: bakeoff run, which fetches it")
        with TemporaryDirectory(prefix="bakeoff-") as temporary:
            folder = Folder(temporary)
            planned = make_plan(config, tokenizer, folder)
            write_text(folder.config_file, dump_config(config))
            return planned.document | {"forecast": forecast(planned.document, run_probes(folder, planned.entries))}


def run(source: Source, overrides: dict[str, Any] | None = None, display: str = "auto") -> Results:
    """Run a bakeoff from a YAML file or a mapping and return its results; a finished run is not repeated.

    `overrides` are dotted keys, {"protocol.epochs": 1}. Raises BakeoffError for what the user can mend. An
    interrupt (Ctrl-C, or SIGTERM) lets the current run save itself, writes the report of what exists and is raised as
    KeyboardInterrupt; a second one ends everything at once.
    """
    config = read_config(source, overrides)
    from bakeoff.hub import fetch
    from bakeoff.model import load_tokenizer

    folder = Folder(config.folder)
    with named(source), writing(folder):
        check_installed(config)
        config = pinned(config, folder)
        check_free(folder, config)
        fetch(config.model, config.pin)
        tokenizer = load_tokenizer(config.model, config.pin)
    if config.data.source == "docstrings":
        open_display(display, []).note("reading the docstrings of installed packages")
    with named(source), writing(folder), locked(folder):
        planned = make_plan(config, tokenizer, folder)
        prepare(folder, config, planned)
        done = {run.id for run in planned.runs if folder.whole(run.id)}
        steps = trial_steps(folder, planned)
        forecast = Forecast(planned.runs, planned.document, config.protocol, done, steps)
        journal = Journal(folder.events_file)
        with (
            stoppable() as stop,
            open_display(display, planned.runs, done, forecast) as screen,
            reported(folder, screen),
            tracked(folder, config, screen.note),
            journal.session(done, steps),
        ):
            schedule = Schedule(folder, planned, screen, journal)
            for finding in planned.document["data"]["findings"]:
                schedule.note(finding)
            for event in run_local(folder.path, schedule.runs(), stop):
                schedule.tell(event)
    return load_results(folder.path)


def pinned(config: Config, folder: Folder) -> Config:
    """Return the config with the commit that its hub model stands at; a bakeoff that goes on keeps its own."""
    from bakeoff.hub import commit

    if config.revision is None and folder.plan_file.exists() and folder.plan()["model"]["name"] == config.model:
        return config.model_copy(update={"revision": folder.plan()["model"]["revision"]})
    return config.model_copy(update={"revision": commit(config.model, config.revision)})


def trial_steps(folder: Folder, planned: Plan) -> dict[str, int]:
    """Return how many steps each trial has taken that was started before."""
    trials = [run.id for run in planned.runs if run.kind == "trial"]
    return {trial: result.steps or 0 for trial in trials if (result := folder.run(trial).result())}


@contextmanager
def named(source: Source) -> Iterator[None]:
    """Within, an error that begins with a key of the config names the file too."""
    try:
        yield
    except BakeoffError as error:
        first = re.split(r"[:.]", str(error), maxsplit=1)[0]
        if not isinstance(source, dict) and first in Config.model_fields:
            error.args = (f"{source}: {error}",)
        raise


@contextmanager
def writing(folder: Folder) -> Iterator[None]:
    """Within, what the system refuses (no permission, a full disk) is a SetupError of one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise SetupError(f"{error.filename or folder.path}: {reason}. Try: -s output=FOLDER, another folder") from None


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Within, no other process runs this bakeoff; raise SetupError where one does already."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"{folder.path}: another bakeoff run is at work here. Wait for it, or end it") from None
        try:
            yield
        finally:
            if not folder.plan_file.exists():
                discard(folder)


def discard(folder: Folder) -> None:
    """Remove what a bakeoff that came to no plan has left: its own files, and folders with nothing else in them."""
    for file in own_files(folder):
        if file != folder.lock_file:
            file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.tokens_file("train").parent.rmdir()
    if [file.name for file in folder.path.iterdir()] == [folder.lock_file.name]:
        folder.lock_file.unlink()
        folder.path.rmdir()


def own_files(folder: Folder) -> set[Path]:
    """Return the files that a bakeoff writes before it has a plan."""
    data = {file for split in SPLITS for file in (folder.examples_file(split), folder.tokens_file(split))}
    return {folder.lock_file, folder.config_file, folder.environment_file, *data}


@contextmanager
def reported(folder: Folder, screen: Display) -> Iterator[None]:
    """Within, runs happen; on the way out, also by an interrupt, results and report are written of what exists."""
    try:
        yield
    finally:
        shutil.rmtree(folder.trunk, ignore_errors=True)
        screen.note(f"report: {refresh_report(folder.path)}")


def refresh_report(path: str | Path) -> Path:
    """Write results.json, the page, CSV and Markdown from a folder's records; return the page's path."""
    folder = Folder(path)
    folder.plan()
    with writing(folder):
        write_json(folder.results_file, summarize(folder))
        return write_report(folder.path)


def check_free(folder: Folder, config: Config) -> None:
    """Raise SetupError where the run folder holds something else than this bakeoff."""
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        raise SetupError(f"{folder.path}: is a file. Try: another name, or -s output=FOLDER")
    if not folder.plan_file.exists():
        # Nothing, or what a bakeoff leaves that was stopped before it had a plan: its lock is always there.
        own = own_files(folder) if folder.lock_file.exists() else set()
        files = (file for file in folder.path.rglob("*") if not file.is_dir())
        if any(file not in own and not (own and re.fullmatch(r"\..+\.\d+\.tmp", file.name)) for file in files):
            raise SetupError(f"{folder.path}: holds other files. Try: another name, or -s output=FOLDER")
        return
    there = load_config(folder.config_file).model_dump()
    differing = [key for key, value in flatten(config.model_dump()).items() if flatten(there).get(key) != value]
    differing += [key for key in flatten(there) if key not in flatten(config.model_dump())]
    differing = [key for key in differing if key not in FREE_TO_CHANGE]
    if differing:
        raise SetupError(
            f"{folder.path}: holds another bakeoff (it differs in {', '.join(differing[:3])}). "
            "Try: another name, or -s output=FOLDER"
        )


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def prepare(folder: Folder, config: Config, planned: Plan) -> None:
    """Write config, plan, environment, and examples by their tokens; raise SetupError where the folder has others."""
    from bakeoff.environment import environment

    if folder.plan_file.exists():
        if {r.id for r in folder.runs()} != {r.id for r in planned.runs}:
            raise SetupError(
                f"{folder.path}: its runs were made from other data, weights, precision or version. "
                "Try: another name, or -s output=FOLDER"
            )
        return
    write_text(folder.config_file, dump_config(config))
    for split in SPLITS:
        write_jsonl(folder.examples_file(split), (example.row() for example in planned.splits[split]))
    write_json(folder.environment_file, environment())
    write_json(folder.plan_file, planned.document)


def load_results(path: str | Path) -> Results:
    """Return the results in a bakeoff's folder; raise SetupError where it is none."""
    folder = Folder(path)
    folder.plan()
    results = folder.results_file
    written = results.stat().st_mtime if results.exists() else 0
    if written and all(f.stat().st_mtime <= written for f in folder.path.glob("runs/*/result.json")):
        with suppress(ValueError):  # damaged: then made anew
            return Results(folder, json.loads(results.read_text(encoding="utf-8")))
    return Results(folder, summarize(folder))

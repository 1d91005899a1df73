"""The Python API: run, plan, load_results, and what they return. The command line calls these."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.collector import uncollected
from bakeoff.config.config import Config
from bakeoff.config.loading import dump_config, load_config
from bakeoff.driver.device import first_device
from bakeoff.driver.executor import hiding_others
from bakeoff.driver.plan import check_fixed, check_rounds, make_plan
from bakeoff.driver.probes import run_probes
from bakeoff.driver.resume import check_free
from bakeoff.driver.run_server import environment_of
from bakeoff.driver.trust import check_trusted, wishes
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.progress.throughput import expected_costs
from bakeoff.progress.trackers import check_installed
from bakeoff.reporting import over_tasks
from bakeoff.results import Results, load_results
from bakeoff.running import executor_of, pinned, run_all
from bakeoff.store.files import write_text, writing
from bakeoff.store.run_folder import Folder
from bakeoff.store.scratch import scratch

if TYPE_CHECKING:
    from bakeoff.config.grid import GridCell
    from bakeoff.judging.judge import Totals
    from bakeoff.serving.entries import Entries
    from bakeoff.serving.server import Server
    from bakeoff.tasting.server import TastingServer

Source = str | Path | dict[str, Any]


def read_config(source: Source, overrides: dict[str, Any] | None, trust: bool = False) -> Config:
    """Return the config. A config in its own run folder resumes there, whatever the working folder is.

    Raises SetupError if that folder is from elsewhere and its config runs code, unless `trust` is set.
    """
    config = load_config(source, overrides)
    if not isinstance(source, dict) and Path(source).name == Folder("").config_file.name:
        beside = Folder(Path(source).parent)
        if beside.planned():
            check_trusted(beside, config, wishes(load_config(source)), trust)
    for path in (str(config.folder.absolute()), config.model):
        if path.encode(errors="replace").decode() != path:
            raise SetupError(
                f"{path}: the path is not UTF-8, which adapters need. Try: another folder, with -s output=FOLDER"
            )
    if isinstance(source, dict) or {"name", "output"} & set(overrides or {}):
        return config
    beside = Folder(Path(source).parent)
    if Path(source) != beside.config_file or not beside.planned():
        return config
    return config.model_copy(update={"output": str(beside.path)})


def plan(
    source: Source, overrides: dict[str, Any] | None = None, probe: bool = False, trust: bool = False
) -> dict[str, Any]:
    """Return what would run: runs, steps, exact parameter counts. Reads the data, writes nothing.

    With `probe`, each entry takes some steps on its longest batch in its own process, and the plan has a `forecast` of
    seconds and memory.
    """
    config = read_config(source, overrides, trust)
    from bakeoff.compute.model.loading import (
        tokenizer_here,  # takes seconds, and a mistake in the config is told before
    )

    with named(source):
        config = pinned(config, Folder(config.folder))
        tokenizer = tokenizer_here(config.model, config.pin)
        if not probe:
            return make_plan(config, tokenizer).document.row()
        if tokenizer is None:
            raise SetupError(f"--probe: {config.model} is not on this machine. Try: bakeoff run, which downloads it")
        with scratch() as temporary:
            folder = Folder(temporary)
            planned = make_plan(config, tokenizer, folder)
            write_text(folder.config_file, dump_config(config))
            device, environment = hiding_others(first_device(config.machine), environment_of(config))
            probes = run_probes(folder, planned.entries, planned.document, device, environment)
            forecast = expected_costs(planned.document, config.protocol, probes)
            return planned.document.model_copy(update={"forecast": forecast}).row()


def run(source: Source, overrides: dict[str, Any] | None = None, display: str = "auto", trust: bool = False) -> Results:
    """Run a bakeoff from a YAML file or a mapping and return its results; a finished run is not repeated.

    `trust` allows the config of a run folder from elsewhere to run what it names: a model's code, functions, trackers.
    `overrides` are dotted keys, {"protocol.epochs": 1}. Raises BakeoffError for errors that the user can fix. An
    interrupt (Ctrl-C or SIGTERM) lets the current run save a checkpoint, writes a report of the finished runs and is
    raised as KeyboardInterrupt; a second one ends everything at once.
    """
    config = read_config(source, overrides, trust)
    folder = Folder(config.folder)
    with named(source), writing(folder.path):
        check_installed(config)
        config = pinned(config, folder)
        check_free(folder, config)
        with executor_of(config) as executor:
            return run_all(folder, config, display, executor)


@contextmanager
def named(source: Source) -> Iterator[None]:
    """Add the config's file to an error that begins with a key of the config."""
    try:
        yield
    except BakeoffError as error:
        first = re.split(r"[:.]", str(error), maxsplit=1)[0]
        if not isinstance(source, dict) and first in Config.model_fields:
            error.args = (f"{source}: {error}",)
        raise


def serve(*folders: str | Path, device: str = "auto", trust: bool = False, **settings: Any) -> "Server":
    """Return a server of finished bakeoffs' entries, with all that it serves in memory.

    `with bakeoff.serve("bakeoffs/demo", port=0) as server:` lets it run in a thread; `bakeoff.serve(...).run()` runs it
    until a signal. `settings` are those of `bakeoff.serving.settings.Settings`. Raises SetupError if the bakeoffs do
    not share a base, or the address is taken.
    """
    try:
        from bakeoff.serving.server import Server
    except ImportError as error:
        raise SetupError(f"serve: {error.name} is not installed. Try: pip install bakeoff[serve]") from None
    from bakeoff.serving.settings import Settings

    with uncollected():
        return Server(folders, Settings(**settings), device, trust)


def taste(path: str | Path, entries: Sequence[str] = (), **settings: Any) -> "TastingServer":
    """Return a server of the page on which people compare two entries' outputs without knowing whose they are.

    `with bakeoff.taste("bakeoffs/demo", ["lora", "last_layers"]) as server:` lets it run in a thread at `server.url`;
    `.run()` runs it until a signal. `settings` are pairs, host and port. Votes are in votes.jsonl of the run folder.
    """
    try:
        from bakeoff.tasting.server import TastingServer
    except ImportError as error:
        raise SetupError(f"taste: {error.name} is not installed. Try: pip install bakeoff[serve]") from None
    return TastingServer(path, entries, **settings)


def judge(
    path: str | Path, overrides: dict[str, Any] | None = None, entries: Sequence[str] = (),
    said: Callable[["Totals", int], None] | None = None,
) -> "Totals":  # fmt: skip
    """Ask the judge model of a bakeoff's config which outputs are better; return what it has cost.

    Both orders of every pair are asked; what was answered before is not asked again. `overrides` are dotted keys,
    {"judge.model": "..."}. `said` gets the totals so far and the number of questions. Raises SetupError if no judge is
    named, or the folder is from elsewhere: then its config may not say where outputs are sent.
    """
    from bakeoff.judging.judge import judge as ask
    from bakeoff.judging.judge import judged_pairs, questions
    from bakeoff.judging.settings import judge_config

    folder = Folder(path)
    document = load_results(path).document
    config = judge_config(folder, overrides or {})
    asked = list(questions(folder, document, judged_pairs(folder, document, entries, config.pairs), config))
    return ask(folder, asked, config, lambda totals: said(totals, len(asked)) if said else None)


def load_entries(*folders: str | Path, device: str = "auto", trust: bool = False) -> "Entries":
    """Return all finished entries of bakeoffs that share a base, which is in memory once.

    `load_entries("bakeoffs/demo").generate(["A document"], "demo/lora")` switches between them without loading
    anything. Raises SetupError if the bakeoffs do not share a base.
    """
    from bakeoff.serving.entries import Entries
    from bakeoff.serving.opening import Opened

    with uncollected():
        return Entries(Opened(folders, device, trust, say=getLogger("bakeoff.serving").warning))


def run_grid(
    source: str | Path, overrides: dict[str, Any] | None = None, display: str = "auto"
) -> tuple[list[Results], Path | None]:
    """Run every cell of a grid's config; return their results, and the joint page.

    Each cell is a bakeoff in a folder of its own below the grid's; a finished one is not repeated. All are planned
    before one begins. The page is None if no entry has finished everywhere. Raises BakeoffError as `run` does, with the
    cell in front.
    """
    from bakeoff.config.grid import load_grid
    from bakeoff.store.grid_folder import GridFolder

    grid = load_grid(Path(source), overrides)
    folder = GridFolder(grid.folder)
    folder.check_free()
    for cell in grid.cells:  # nothing is trained before all of them can be planned
        with of_cell(source, cell):
            check_plan(cell.config)
    with writing(folder.path):
        folder.begin({cell.config.name: (cell.task, cell.base) for cell in grid.cells})
    results = []
    for cell in grid.cells:
        with of_cell(source, cell):
            results.append(run(cell.config.model_dump(mode="json"), display=display))
    rows = [result.document.entries for result in results]
    shared = any(all(n in of and of[n].status == "done" for of in rows) for n in rows[0])
    whole = all(result.document.status == "done" for result in results)
    return results, over_tasks([folder.path]) if len(rows) > 1 and (shared or whole) else None


@contextmanager
def of_cell(source: str | Path, cell: "GridCell") -> Iterator[None]:
    """Add the grid's file and the cell to an error."""
    try:
        yield
    except BakeoffError as error:
        error.args = (f"{source} ({cell.task} on {cell.base}): {error}",)
        raise


def check_plan(config: Config) -> None:
    """Raise a BakeoffError if a bakeoff cannot be planned; one that is finished as it is was planned before."""
    from bakeoff.compute.model.loading import tokenizer_here
    from bakeoff.driver.again import unchanged

    check_installed(config)
    folder = Folder(config.folder)
    config = pinned(config, folder)
    check_free(folder, config)
    if not unchanged(config, folder):
        check_rounds(config, folder)
        check_fixed(config, folder, make_plan(config, tokenizer_here(config.model, config.pin)).runs)

"""The Python API: run, plan, load_results, and what they return. The command line calls these."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.collector import uncollected
from bakeoff.config.config import Config
from bakeoff.config.loading import load_config
from bakeoff.driver.trust import check_trusted, wishes
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.results import Results, load_results
from bakeoff.running import check_paths, plan_config, run_config
from bakeoff.store.run_folder import Folder

if TYPE_CHECKING:
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
    check_paths(config)
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
    with named(source):
        return plan_config(config, probe).document.row()


def run(source: Source, overrides: dict[str, Any] | None = None, display: str = "auto", trust: bool = False) -> Results:
    """Run a bakeoff from a YAML file or a mapping and return its results; a finished run is not repeated.

    `trust` allows the config of a run folder from elsewhere to run what it names: a model's code, functions, trackers.
    `overrides` are dotted keys, {"protocol.epochs": 1}. Raises BakeoffError for errors that the user can fix. An
    interrupt (Ctrl-C or SIGTERM) lets the current run save a checkpoint, writes a report of the finished runs and is
    raised as KeyboardInterrupt; a second one ends everything at once.
    """
    config = read_config(source, overrides, trust)
    with named(source):
        return run_config(config, display)


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

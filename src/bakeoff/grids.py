"""Bakeoffs of several tasks and bases: a grid is planned whole, and carried out cell by cell.

Its cells share what several of them need: examples that are read once, token ids, and the process that has a base in
memory. Each cell is an ordinary bakeoff all the same, whose records are those that it would have alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bakeoff.analysis.cells import TaskDocuments, refuse_two_methods, shared_documents
from bakeoff.config.config import Config
from bakeoff.config.grid import GridCell, in_run_order, load_grid
from bakeoff.data.shared import SharedData
from bakeoff.driver.again import plan_again
from bakeoff.driver.executor import Executor
from bakeoff.driver.plan import Plan, make_plan
from bakeoff.driver.resume import check_free
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.hub import base_identity
from bakeoff.progress.open import open_display
from bakeoff.progress.trackers import check_installed
from bakeoff.reporting import over_tasks
from bakeoff.results import Results
from bakeoff.running import check_paths, downloaded, executor_of, pinned, plan_config, run_config
from bakeoff.store.files import writing
from bakeoff.store.grid_folder import GridFolder
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.run_folder import Folder


def plan_grid(
    source: str | Path, overrides: dict[str, Any] | None = None, probe: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the plan of every cell of a grid's config, and lines on what they share; writes nothing.

    `probe` is as in `plan`. Raises BakeoffError, with the cell in front, for what `run_grid` would refuse.
    """
    cells, plans = load_grid(Path(source), overrides).cells, []
    with SharedData() as shared:
        for cell in cells:
            with of_cell(source, cell):
                check_paths(cell.config)
                plans.append(plan_config(cell.config, probe, shared))
        lines = check_together(source, cells, plans)
    return [planned.document.row() for planned in plans], lines


def run_grid(
    source: str | Path, overrides: dict[str, Any] | None = None, display: str = "auto"
) -> tuple[list[Results], Path | None]:
    """Run every cell of a grid's config; return their results, and the joint page.

    Each cell is a bakeoff in a folder of its own below the grid's; a finished one is not repeated. All are planned
    before one begins. The page is None if no entry has finished everywhere. Raises BakeoffError as `run` does, with the
    cell in front.
    """
    grid = load_grid(Path(source), overrides)
    folder, note = GridFolder(grid.folder), open_display(display, []).note
    folder.check_free()
    if any(cell.config.data.source == "docstrings" for cell in grid.cells):
        note("reading the docstrings of installed packages")
    with SharedData() as shared, Executors() as executors:
        plans = []
        for cell in grid.cells:  # nothing is trained before all of them can be planned
            with of_cell(source, cell):
                plans.append(planned_cell(cell.config, shared))
        for line in check_together(source, grid.cells, plans):
            note(line)
        cells = [replace(cell, config=planned.config) for cell, planned in zip(grid.cells, plans, strict=True)]
        bases = {cell.base: planned.document.model.identity for cell, planned in zip(cells, plans, strict=True)}
        shared.runs = {run.id for planned in plans for run in planned.runs}
        with writing(folder.path), folder.owned({cell.config.name: (cell.task, cell.base) for cell in cells}):
            found = {}
            for number, cell in enumerate(in_run_order(cells), 1):
                note(f"bakeoff {number} of {len(cells)}: {cell.task} on {cell.base}")
                with of_cell(source, cell):
                    check_unchanged(cell.config, bases[cell.base])
                    found[cell.config.name] = run_config(cell.config, display, executors.of, shared)
            executors.close()
            results = [found[cell.config.name] for cell in cells]
            rows = [result.document.entries for result in results]
            common = any(all(n in of and of[n].status == "done" for of in rows) for n in rows[0])
            return results, over_tasks([folder.path]) if len(rows) > 1 and common else None


def check_unchanged(config: Config, identity: str | None) -> None:
    """Raise SetupError if a base's files are not those of the plan any more: its cells would not be of one base."""
    if base_identity(config.model, config.pin) != identity:
        raise SetupError(f"{config.model}: changed while the grid was running. Try: bakeoff run again")


@contextmanager
def of_cell(source: str | Path, cell: GridCell) -> Iterator[None]:
    """Add the grid's file and the cell to an error."""
    try:
        yield
    except BakeoffError as error:
        error.args = (f"{source} ({cell.task} on {cell.base}): {error}",)
        raise


def planned_cell(config: Config, shared: SharedData) -> Plan:
    """Return the plan of a cell as it would be carried out now, with the commit of its base; writes nothing."""
    check_paths(config)
    check_installed(config)
    folder = Folder(config.folder)
    config = pinned(config, folder)
    check_free(folder, config)
    again = plan_again(config, folder, shared)
    return again or make_plan(config, downloaded(config), shared=shared, must_read=True)


def check_together(source: str | Path, cells: Sequence[GridCell], plans: Sequence[Plan]) -> list[str]:
    """Return a line on each two tasks that have some test documents in common.

    Raises SetupError for what the joint report would refuse when everything has been trained.
    """
    splits, first = [], dict[str, tuple[str, str]]()
    for cell, planned in zip(cells, plans, strict=True) if len(cells) > 1 else ():
        place, test = f"{source}: {cell.task} on {cell.base}", planned.data.splits["test"]
        identity, own = first.setdefault(cell.task, (planned.document.data.identity, place))
        if planned.document.data.identity != identity:
            raise SetupError(
                f"{place}: has other examples than {own}, but the same task, {cell.task}. Try: the same data for every "
                "base, without data.long_targets: drop"
            )
        if planned.read:
            splits.append(TaskDocuments(cell.task, place, [example.document.strip() for example in test]))
            if len({example.group if planned.config.data.group else example.source.strip() for example in test}) < 2:
                raise SetupError(f"{place}: one test document tells nothing over tasks. Try: more of them")
    refuse_twin_bases(source, cells, plans)
    documents = [planned.document for planned in plans]
    names = [name for name in documents[0].entries if all(name in document.entries for document in documents)]
    if not names:
        raise SetupError(f"{source}: no entry is in all bakeoffs of the grid. Try: entries of the same names")
    refuse_two_methods(str(source), names, documents)
    return shared_documents(splits)


def refuse_twin_bases(source: str | Path, cells: Sequence[GridCell], plans: Sequence[Plan]) -> None:
    """Raise SetupError if two bases have the same files, or a base has different ones for two tasks."""
    names, versions = dict[str, str](), dict[str, PlanDocument]()
    for cell, planned in zip(cells, plans, strict=True):
        model = planned.document.model
        if model.identity is None:
            continue
        if (twin := names.setdefault(model.identity, cell.base)) != cell.base:
            raise SetupError(f"{source}: models.{twin} and models.{cell.base} are the same base. Try: one of the two")
        first = versions.setdefault(cell.base, planned.document).model
        if first.identity != model.identity:
            raise SetupError(
                f"{source}: {cell.task} on {cell.base} is to have another version of its base ({model.revision}) than "
                f"{versions[cell.base].name} ({first.revision}). Try: revision: {first.revision}, for all its tasks"
            )


class Executors(ExitStack):
    """What carries out the runs of bakeoffs that follow each other; it ends with this context.

    A local executor stays for the next bakeoff if that wants the same base, and nothing else of what its processes keep
    from run to run: devices, a limit of memory, how cuBLAS and compiled blocks compute.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last: Executor | None = None
        self.wanted: tuple[Any, ...] = ()

    @contextmanager
    def of(self, config: Config) -> Iterator[Executor]:
        """Yield what carries out a bakeoff's runs; raise SetupError if it cannot be used."""
        machine, protocol, limit = config.machine, config.protocol, config.safety.memory_limit
        wanted, executor = (machine, config.model, config.pin, limit, protocol.deterministic), self.last
        if executor is None or not executor.lasting or self.wanted != wanted:
            self.close()
            executor = self.last = self.enter_context(executor_of(config))
            executor.lasting = machine.executor == "local" and not protocol.compile_blocks
            self.wanted = wanted
        yield executor
        if not executor.lasting:
            self.close()

"""One run of a bakeoff from its plan to its report, and what that needs: the base, an executor, the results."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from bakeoff.config.config import Config
from bakeoff.config.loading import dump_config
from bakeoff.data.shared import SharedData
from bakeoff.driver.again import plan_again, unchanged
from bakeoff.driver.bus import Bus
from bakeoff.driver.device import first_device, places_of, survey
from bakeoff.driver.executor import Executor, LocalExecutor, hiding_others
from bakeoff.driver.plan import Plan, make_plan
from bakeoff.driver.probes import run_probes
from bakeoff.driver.ready import ReadySet
from bakeoff.driver.resume import check_free, left_to_do, prepare
from bakeoff.driver.run_server import environment_of
from bakeoff.driver.scheduler import Scheduler
from bakeoff.driver.slot_folder import take_back_all
from bakeoff.errors import SetupError
from bakeoff.interrupts import EndAtOnce, stoppable
from bakeoff.progress.display import Display
from bakeoff.progress.open import open_display
from bakeoff.progress.session import Session
from bakeoff.progress.throughput import expected_costs
from bakeoff.progress.trackers import check_installed, check_several, tracked
from bakeoff.reporting import write_results
from bakeoff.results import Results
from bakeoff.store.event_log import EventLog
from bakeoff.store.files import write_text, writing
from bakeoff.store.ownership import owned
from bakeoff.store.run_folder import Folder
from bakeoff.store.scratch import scratch
from bakeoff.store.split_uses import note_uses, reuse_note, scored_runs


def executor_of(config: Config) -> Executor:
    """Return what carries out a bakeoff's runs; raise SetupError if it cannot be used."""
    if config.machine.executor == "local":
        return LocalExecutor(config)
    if config.machine.executor == "slurm":
        from bakeoff.driver.slurm_executor import SlurmExecutor

        return SlurmExecutor(config)
    from bakeoff.driver.ray_executor import RayExecutor

    return RayExecutor(config)


def check_paths(config: Config) -> None:
    """Raise SetupError if the path of the run folder or base is not UTF-8."""
    for path in (str(config.folder.absolute()), config.model):
        if path.encode(errors="replace").decode() != path:
            raise SetupError(
                f"{path}: the path is not UTF-8, which adapters need. Try: another folder, with -s output=FOLDER"
            )


def plan_config(config: Config, probe: bool = False, shared: SharedData | None = None) -> Plan:
    """Return the plan of a bakeoff, and write nothing; with `probe` its document has a forecast, as in `api.plan`."""
    from bakeoff.compute.model.loading import (
        tokenizer_here,  # takes seconds, and a mistake in the config is told before
    )

    config = pinned(config, Folder(config.folder))
    tokenizer = tokenizer_here(config.model, config.pin)
    if not probe:
        return make_plan(config, tokenizer, shared=shared)
    if tokenizer is None:
        raise SetupError(f"--probe: {config.model} is not on this machine. Try: bakeoff run, which downloads it")
    with scratch() as temporary:
        folder = Folder(temporary)
        planned = make_plan(config, tokenizer, folder, shared)
        write_text(folder.config_file, dump_config(config))
        device, environment = hiding_others(first_device(config.machine), environment_of(config))
        probes = run_probes(folder, planned.entries, planned.document, device, environment)
    forecast = expected_costs(planned.document, config.protocol, probes)
    return replace(planned, document=planned.document.model_copy(update={"forecast": forecast}))


def run_config(
    config: Config, display: str, executor_for: Callable[[Config], AbstractContextManager[Executor]] = executor_of,
    shared: SharedData | None = None,
) -> Results:  # fmt: skip
    """Run a bakeoff, or resume it, and return its results.

    `shared` has what was read and tokenized for the plans of other bakeoffs.
    """
    folder = Folder(config.folder)
    with writing(folder.path):
        check_installed(config)
        config = pinned(config, folder)
        check_free(folder, config)
        with executor_for(config) as executor:
            return run_all(folder, config, display, executor, shared)


def run_all(
    folder: Folder, config: Config, display: str, executor: Executor, shared: SharedData | None = None
) -> Results:
    """Plan, carry out every run that is not done, and write results and report into the folder."""
    began = time.monotonic()
    tokenizer = None if unchanged(config, folder) else fetched(config, executor)
    if config.data.source == "docstrings" and not shared:
        open_display(display, []).note("reading the docstrings of installed packages")
    with owned(folder) as took_over:
        check_free(folder, config)  # again: another bakeoff may have run here since
        if folder.jobs.exists():
            executor.take_over(folder, open_display(display, []).note)
        take_back_all(folder)
        planned = plan_again(config, folder, shared) if tokenizer is None else None
        planned = planned or make_plan(config, tokenizer or fetched(config, executor), folder, shared)
        if not planned.data.is_current():
            folder.clear_trunk()
        notes = [took_over] if took_over else []
        left = left_to_do(folder, planned.document)
        notes += prepare(folder, config, planned, left)
        notes += reuse_note(folder, {run.id for run in planned.runs} | (shared.runs if shared else set()))
        here = not planned.again and config.machine.executor == "local"
        executor.spread(places_of(config.machine) if here else [first_device(config.machine)])
        check_several(config, len(executor.slots))
        session = Session.to_come(folder, planned.document, config.protocol, left, len(executor.slots))
        log = EventLog(folder.events_file)
        with (
            stoppable() as stop,
            session.display(display) as screen,
            reported(folder, screen) as results,
            tracked(folder, config, screen.note),
            log.session(session.start),
        ):
            screen.start = began  # planning is part of the time that it shows
            bus = Bus(log, screen)
            for line in [*notes, *planned.document.data.findings]:
                bus.note(line)
            ready = ReadySet(Scheduler(folder, planned, bus, left).work())
            for event in executor.run(folder.path, ready, stop):
                bus.handle(event)
    return results


def fetched(config: Config, executor: Executor) -> Any:
    """Return the base's tokenizer, after what is missing of the base was downloaded; start the server of its runs."""
    executor.start_early()
    return downloaded(config)


def downloaded(config: Config) -> Any:
    """Return the base's tokenizer, after what is missing of the base was downloaded."""
    survey(first_device(config.machine))  # before anything is downloaded
    from bakeoff.compute.model.loading import load_tokenizer
    from bakeoff.hub import fetch

    fetch(config.model, config.pin)
    return load_tokenizer(config.model, config.pin)


def pinned(config: Config, folder: Folder) -> Config:
    """Return the config with the commit of its hub model; a bakeoff that resumes keeps its commit."""
    from bakeoff.hub import commit

    before = folder.last_plan()
    if config.revision is None and before and before.model.name == config.model:
        return config.model_copy(update={"revision": before.model.revision})
    return config.model_copy(update={"revision": commit(config.model, config.revision)})


@contextmanager
def reported(folder: Folder, screen: Display) -> Iterator[Results]:
    """Write results and report of the finished runs at the end, also after a first interrupt.

    Yields the results to come.
    """
    nothing: Any = {}
    results, at_once = Results(folder, nothing), False
    try:
        yield results
    except EndAtOnce:
        at_once = True
        raise
    finally:
        folder.clear_trunk()
        if not at_once:
            note_uses(folder, scored_runs(folder))
            page, results.document = write_results(folder)
            screen.note(f"report: {page}")

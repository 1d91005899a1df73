"""Exports one finished run: refuses, makes, reads back, compares, describes, and only then puts it in its place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.config.config import load_config
from bakeoff.config.planned import planned_config
from bakeoff.driver.environment import machine
from bakeoff.driver.trust import check_trusted, model_wishes
from bakeoff.errors import SetupError
from bakeoff.export.card import write_card
from bakeoff.export.comparison import Check, compare, nats, points
from bakeoff.export.folder import check_place, default_folder, mark, written
from bakeoff.export.job import MAKE, READ_BACK, Job
from bakeoff.export.options import Form, Options, form_of
from bakeoff.store.records import Run
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder


@dataclass
class Export:
    """A finished export: its folder, what it was made as, and what reading it back showed (None: not checked)."""

    path: Path
    made: dict[str, Any]
    check: Check | None
    notes: list[str] = field(default_factory=list)

    def summary(self) -> list[str]:
        """Return what a user should know, in lines: how it was checked, and what it lost beyond chance."""
        if self.check is None:
            return ["not checked", *self.notes]
        c = self.check
        loss = f", test loss {nats(c.loss)}" if c.loss else ""
        checked = f"checked: {c.equal} of {c.examples} outputs are equal, {c.heading} {points(c.score)}{loss}"
        return [checked, *(f"warning: {line}" for line in c.complaints()), *self.notes]


def export_run(
    folder: Folder, document: ResultsDocument, run: Run, adapter: Path, options: Options, trust: bool = False
) -> Export:
    """Write an export of a finished run and return it; raise SetupError if it cannot be made, and leave nothing.

    `document` is the bakeoff's results. A folder from elsewhere is used only with `trust`.
    """
    signed = load_config(folder.config_file)
    check_trusted(folder, signed, model_wishes(signed), trust)
    plan = folder.plan()
    if not folder.is_complete(run.id, plan):
        raise SetupError(f"{folder.path}: entry '{run.entry}' is not complete. Try: bakeoff run {folder.config_file}")
    place = options.output or default_folder(plan.name, run.entry, options.to)
    check_place(place, options.force, folder.path)
    config = planned_config(folder, plan)
    form = form_of(options, run, adapter, config)
    job = Job(folder, document, run, adapter, config, options, form)
    try:
        with written(place, options.force) as temporary:
            return finished(job, place, temporary)
    except OSError as error:
        where = error.filename or place
        raise SetupError(f"{where}: {error.strerror or error}. Try: -o FOLDER, on a disk with free space") from None


def finished(job: Job, place: Path, temporary: Path) -> Export:
    """Make the files in a temporary folder, read them back, and describe them."""
    options = job.options
    made = job.ask(MAKE, output=os.path.abspath(temporary), dtype=options.dtype, rank=options.rank)  # noqa: PTH100
    check = None
    if options.limit != 0:
        found = job.ask(
            READ_BACK, export=os.path.abspath(temporary), limit=options.limit, device=options.device  # noqa: PTH100
        )  # fmt: skip
        check = compare(job.folder, job.folder.run(job.run.id), job.config, found, run_by(machine(), job.form))
    made = {**made, "bytes": sum(f.stat().st_size for f in temporary.rglob("*") if f.is_file())}
    write_card(temporary, job, made, check)
    facts = {"to": options.to, "form": job.form, "bakeoff": job.document.name, "entry": job.run.entry}
    mark(temporary, facts | {"run": job.run.id, "made": made, "check": check.row() if check else None})
    return Export(place, made, check)


def run_by(facts: Mapping[str, Any], form: Form) -> str:
    """Return which programs ran an export in its check."""
    with_peft = f", PEFT {facts['peft']}" if form != "merged" else ""
    return f"transformers {facts['transformers']}{with_peft}"

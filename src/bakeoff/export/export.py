"""Exports one finished run: checks the request, makes the files, reads them back, compares, and writes the card."""

import errno
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.config.loading import load_config
from bakeoff.config.planned import planned_config
from bakeoff.driver.environment import machine
from bakeoff.driver.trust import check_trusted, model_wishes
from bakeoff.errors import SetupError
from bakeoff.export.card import write_card
from bakeoff.export.comparison import Check, compare, nats, points
from bakeoff.export.folder import check_place, default_folder, mark, written
from bakeoff.export.hub import prepare, upload
from bakeoff.export.job import MAKE, READ_BACK, Job
from bakeoff.export.llama_cpp import FILE, SERVER, TYPES, LlamaCpp, check_base, convert, find, read_back
from bakeoff.export.ollama import check_quotes, check_template, go_template, modelfile
from bakeoff.export.options import BY_LLAMA_CPP, Form, Options, form_of
from bakeoff.export.prompts import Prompts, prompts_of
from bakeoff.export.requests import curl
from bakeoff.export.vllm import serve_command, served_by_vllm
from bakeoff.hub import model_folder
from bakeoff.report.cards import fenced
from bakeoff.store.files import write_text
from bakeoff.store.records import Run
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder

FULL = (errno.ENOSPC, errno.EDQUOT)


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
        again = f"bakeoff run {shlex.quote(str(folder.config_file))}"
        raise SetupError(f"{folder.path}: entry '{run.entry}' is not complete. Try: {again}")
    place = Path(options.output or default_folder(plan.name, run.entry, options.to))
    if ".." in place.parts or not place.name:  # a folder before `..` need not exist; `.` is nobody's name
        place = place.resolve()
    check_place(place, options.force)
    config = planned_config(folder, plan).model_copy(update={"model": signed.model, "revision": signed.revision})
    form = form_of(options, run, adapter, config)
    job = Job(folder, document, run, adapter, config, options, form)
    programs = find(options.llama_cpp) if options.to in BY_LLAMA_CPP else None
    if options.to == "ollama":
        check_quotes(system_of(job) or "")
        if not talks(job):
            check_template(document.template)
    if options.repo:
        prepare(options.repo, options.public)
    try:
        with written(place, options.force) as temporary:
            done = finished(job, place, temporary, programs)
    except OSError as error:
        where = error.filename or place
        other = "on a disk with free space" if error.errno in FULL else "another place"
        raise SetupError(f"{where}: {error.strerror or error}. Try: -o FOLDER, {other}") from None
    if options.to == "vllm":
        base = model_folder(config.model, config.pin, ask_hub=False)
        done.notes.append(f"serve it with: {serve_command(job, place, str(base), str(place))}")
    if options.repo:
        done.notes.append(f"uploaded: {upload(place, options.repo, f'{plan.name} {run.entry}, by bakeoff')}")
    return done


def finished(job: Job, place: Path, temporary: Path, programs: LlamaCpp | None) -> Export:
    """Make the files in a temporary folder, read them back, and describe them."""
    options, here = job.options, str(temporary.absolute())
    prompts = prompts_of(job) if programs else None
    if programs:
        made = by_llama_cpp(job, temporary, programs, prompts)
    else:
        made = job.ask(MAKE, form=job.form, output=here, dtype=options.dtype, rank=options.rank)
    check = None
    if options.limit != 0 and (programs is None or programs.server):
        if programs:
            found, by = read_back(programs, job, temporary / FILE, prompts), "llama.cpp's server"
        else:
            found = job.ask(READ_BACK, form=job.form, export=here, limit=options.limit, device=options.device)
            by = run_by(machine(), job.form)
        check = compare(job.folder, job.folder.run(job.run.id), job.config, found, by)
    made = {**made, "bytes": sum(f.stat().st_size for f in temporary.rglob("*") if f.is_file())}
    write_card(temporary, job, made, check, use(job, temporary))
    facts = {"to": options.to, "form": job.form, "bakeoff": job.document.name, "entry": job.run.entry}
    mark(temporary, facts | {"run": job.run.id, "made": made, "check": check.row() if check else None})
    notes = [f"llama.cpp's {SERVER} was not found, so the file was not run"] if programs and not check else []
    return Export(place, made, check, notes)


def by_llama_cpp(job: Job, temporary: Path, programs: LlamaCpp, prompts: Prompts | None) -> dict[str, Any]:
    """Write one file for llama.cpp, and for Ollama a Modelfile; the model that it is made from is removed again."""
    template = go_template(job.document.template, prompts) if job.options.to == "ollama" else ""
    check_base(programs, job, temporary / "base")
    merged, options, plan = temporary / "merged", job.options, job.folder.plan()
    merged.mkdir()
    whole = "fp32" if options.dtype == "q8_0" else options.dtype
    made = job.ask(MAKE, form=job.form, output=str(merged.absolute()), dtype=whole, rank=options.rank)
    kind = TYPES[options.dtype or made["dtype"]]
    convert(programs, merged, temporary / FILE, ["--outtype", kind])
    shutil.rmtree(merged)
    if options.to == "ollama":
        assert plan.output_tokens is not None  # a stored plan has it
        text = modelfile(FILE, template, made["ends"], plan.output_tokens, plan.max_tokens, system_of(job))
        write_text(temporary / "Modelfile", text)
    return {**made, "dtype": kind}


def use(job: Job, folder: Path) -> str:
    """Return how the card says to use an export that other programs than transformers run; else an empty text."""
    plan, entry = job.folder.plan(), job.run.entry
    if job.options.to == "vllm":
        return served_by_vllm(job, folder)
    if job.options.to == "ollama":
        return fenced(
            f"ollama create {entry} -f Modelfile\nollama run {entry}{'' if talks(job) else ' < document.txt'}"
        )
    if job.options.to != "gguf":
        return ""
    if job.document.chat:
        return fenced(f"llama-server -m {FILE} --jinja -c {plan.max_tokens}\n{curl(job.document, 'localhost:8080')}")
    return fenced(
        f"llama-completion -m {FILE} --temp 0 -n {plan.output_tokens} -c {plan.max_tokens} -no-cnv -f prompt.txt"
    )


def system_of(job: Job) -> str | None:
    """Return the system text of conversations that have none; the template of documents holds it already."""
    return job.document.chat["system"] if talks(job) and job.document.chat else None


def talks(job: Job) -> bool:
    """Return whether the examples are conversations, and not documents."""
    return bool(job.document.chat and job.document.chat["turns"])


def run_by(facts: Mapping[str, Any], form: Form) -> str:
    """Return which programs ran an export in its check."""
    with_peft = f", PEFT {facts['peft']}" if form != "merged" else ""
    return f"transformers {facts['transformers']}{with_peft}"

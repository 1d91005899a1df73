"""Results as Python objects: a table to print, a data frame, and the winner ready to use."""

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.collector import uncollected
from bakeoff.errors import SetupError, did_you_mean, listed, printable
from bakeoff.store.checksums import fault_of, read_mapping, unsealed
from bakeoff.store.records import Run, RunResult
from bakeoff.store.results_document import ResultsDocument, ResultsRow, stored_results
from bakeoff.store.run_folder import Folder
from bakeoff.store.schema import SCHEMA
from bakeoff.store.signature import unsigned

if TYPE_CHECKING:
    import pandas

    from bakeoff.export import Export


def load_results(path: str | Path) -> "Results":
    """Return the results in a run folder; raise SetupError if it is not a run folder.

    A results.json that this user's bakeoff wrote is used as it is. Any other is made again from the records, whose
    shapes are checked, because another user, version or program may have written it.
    """
    folder = Folder(path)
    with suppress(ValueError):  # changed since, or not written here
        written = unsigned(unsealed(read_mapping(folder.results_file)))
        if written.get("schema") == SCHEMA and written.get("records") == folder.content_hash():
            return Results(folder, stored_results(written))  # and the plan is what it was then
    folder.plan()
    from bakeoff.analysis.summary import summarize  # loads what computes intervals

    return Results(folder, summarize(folder))


class Results:
    """The results of a bakeoff; printing this object gives the table.

    `document` is results.json as a model, for example `document.entries["lora"].metrics["test/loss"].mean`. Its
    `model_dump()` returns plain dictionaries and lists.
    """

    def __init__(self, folder: Folder, document: ResultsDocument):
        self.folder = folder
        self.document = document

    def __repr__(self) -> str:
        """Return the place of the results, how complete they are, and the best entry."""
        best = self.document.verdict.best
        facts = [self.document.status, f"entries {listed([*self.entries])}", *([f"best {best}"] if best else [])]
        return f"<Results of {self.folder.path}: {'; '.join(facts)}>"

    def __str__(self) -> str:
        """Return the table in Markdown, and the verdict."""
        from bakeoff.analysis.table import markdown_table

        return f"{markdown_table(self.document, escape=printable)}\n{printable(self.verdict)}\n"

    def _repr_html_(self) -> str:
        """Return the verdict, the table and two charts for a notebook."""
        from bakeoff.report.notebook import notebook_html

        return notebook_html(self.document)

    @property
    def entries(self) -> dict[str, ResultsRow]:
        """The entries' rows by name."""
        return self.document.entries

    @property
    def verdict(self) -> str:
        """The verdict's sentences."""
        return self.document.verdict.text

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with one row per entry or baseline; means, lows and highs of metrics are columns."""
        try:
            import pandas
        except ImportError:
            raise SetupError("results.to_pandas: pandas is not installed. Try: pip install bakeoff[pandas]") from None
        rows = {}
        for name, row in self.document.rows.items():
            flat = {k: v for k, v in row.row().items() if not isinstance(v, dict | list)} | row.costs
            for metric, score in row.metrics.items():
                flat |= {metric if k == "mean" else f"{metric}/{k}": v for k, v in score.row().items()}
            rows[name] = flat
        return pandas.DataFrame.from_dict(rows, orient="index")

    def entry(self, name: str) -> "EntryResult":
        """Return one entry's result by name."""
        if name in self.document.baselines:
            raise SetupError(f"{self.folder.path}: '{name}' is a baseline, which has no adapter. Try: name an entry")
        if name not in self.entries:
            raise SetupError(f"{self.folder.path}: no entry '{name}'.{did_you_mean(name, self.entries)}")
        return EntryResult(self.folder, name, self.entries[name])

    def prompt(self, name: str) -> "PromptResult":
        """Return a prompted baseline's result by name, for example nearest-4, which is ready to use as an entry is."""
        found = self.prompts()
        if name not in found:
            raise SetupError(f"{self.folder.path}: no finished prompted baseline '{name}'.{did_you_mean(name, found)}")
        return found[name]

    def prompts(self) -> "dict[str, PromptResult]":
        """Return all prompted baselines that have finished, by name."""
        from bakeoff.scoring.prompted import is_prompted

        found = {}
        for name, row in self.document.baselines.items():
            record = next((r for i in row.runs if (r := self.folder.run(i).finished())), None)
            if record and is_prompted(name):
                found[name] = PromptResult(self.folder, name, record)
        return found

    def usable(self, name: str | None) -> "EntryResult | PromptResult":
        """Return what `generate` uses: an entry or a prompted baseline by name; without one, the best entry."""
        from bakeoff.scoring.prompted import is_prompted

        if name is None:
            return self.best()
        return self.prompt(name) if name in self.document.baselines and is_prompted(name) else self.entry(name)

    @property
    def recommended(self) -> str | None:
        """The name of the entry that `best` returns; None if no entry has finished."""
        return self.document.verdict.recommendations["quality"] or self.document.verdict.best

    def best(self) -> "EntryResult":
        """Return the entry with the lowest validation loss among those tied with the best.

        It is never chosen on test data. If the validation loss was not measured, it is the first in the verdict.
        """
        if self.recommended is None:
            raise SetupError(f"{self.folder.path}: no entry has finished. Try: bakeoff run again, or read its report")
        return self.entry(self.recommended)

    def export(self, to: str, entry: str | None = None, trust: bool = False, **options: Any) -> "Export":
        """Export an entry, by default the best, as `EntryResult.export` does."""
        return (self.entry(entry) if entry else self.best()).export(to, trust, **options)


class EntryResult:
    """One entry of a finished bakeoff."""

    def __init__(self, folder: Folder, name: str, row: ResultsRow):
        self.folder, self.name, self.row = folder, name, row

    @property
    def adapter(self) -> Path:
        """The folder of the saved adapter of the seed with the lowest validation loss, never chosen on test data."""
        files = self.folder.run(self.best_run().id)
        if not files.adapter.is_dir():
            raise SetupError(
                f"{files.adapter}: the adapter of entry '{self.name}' was removed. Try: bakeoff run "
                f"{self.folder.config_file}, which repeats that run, or another entry"
            )
        record = files.finished()
        broken = files.damaged_training(record) if record else None
        if broken:
            raise SetupError(f"{broken}: {fault_of(broken)}")
        return files.adapter

    def best_run(self) -> Run:
        """Return the finished run with the lowest validation loss; raise SetupError if none has finished."""
        return self.best_record().run

    def best_record(self) -> RunResult:
        """Return the record of `best_run`."""
        files = [self.folder.run(run_id) for run_id in self.row.runs]
        done = [r for f in files if (r := f.finished()) and r.run.kind == "entry"]
        if not done:
            failed = next((f": it failed ({r.error})" for f in files if (r := f.result()) and r.status == "failed"), "")
            raise SetupError(
                f"{self.folder.path}: entry '{self.name}' has no finished run{failed}. Try: bakeoff run again"
            )
        return min(done, key=lambda r: r.metrics.get("validation/loss", math.inf))

    def predictions(self) -> list[dict[str, Any]]:
        """Return the outputs of the entry's first finished run, with their examples."""
        examples, plan = self.folder.examples("test"), self.folder.plan()
        whole = (self.folder.run(i) for i in self.row.runs if self.folder.is_complete(i, plan))
        rows = next((files.predictions() for files in whole), None)
        if rows is None:
            raise SetupError(f"{self.folder.path}: entry '{self.name}' has no finished run")
        pairs = zip(examples, rows, strict=True)
        return [example.row() | row.row() | {"id": example.id} for example, row in pairs]

    def load(self, trust: bool = False, device: str = "auto") -> Any:
        """Return a `Summarizer`: the base with this adapter, ready to generate.

        `device` is named as in `machine.device`. Raises SetupError if the folder is from elsewhere and names a model
        folder or code, unless `trust` is set.
        """
        return summarizer(self.folder, self.adapter, self.best_record(), trust, device)

    def export(self, to: str, trust: bool = False, **options: Any) -> "Export":
        """Export the adapter of the best seed: `to` is peft, merged, lora, gguf, ollama, vllm or hub.

        `options` are those of `bakeoff.export.Options`. The export is read back in a process of its own and compared
        with the evaluation. Raises SetupError if it cannot be made; then nothing is left.
        """
        from bakeoff.export import Options, export_run

        document = load_results(self.folder.path).document
        return export_run(self.folder, document, self.best_run(), self.adapter, Options(to, **options), trust)


class PromptResult:
    """A prompted baseline of a finished bakeoff: the base with training examples, or an instruction, in its prompt."""

    def __init__(self, folder: Folder, name: str, record: RunResult):
        self.folder, self.name, self.record = folder, name, record

    def load(self, trust: bool = False, device: str = "auto") -> Any:
        """Return a `Summarizer` that shows the base this prompt, as `EntryResult.load` returns one of an adapter."""
        return summarizer(self.folder, None, self.record, trust, device)


def summarizer(folder: Folder, adapter: Path | None, record: RunResult, trust: bool, device: str) -> Any:
    """Return the base of a bakeoff, ready to generate with an adapter, or with the prompt of a prompted baseline.

    Raises SetupError if the folder is from elsewhere and names a model folder or code, unless `trust` is set.
    """
    from bakeoff.config.loading import load_config
    from bakeoff.driver.trust import check_trusted, model_wishes

    config = load_config(folder.config_file)
    check_trusted(folder, config, model_wishes(config), trust)
    with uncollected():
        from bakeoff.compute.decoding.summarizer import Summarizer

        return Summarizer(folder, adapter, record, device)

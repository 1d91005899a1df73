"""What a page is made from: results, and the place of their records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bakeoff.config.loading import dump_config
from bakeoff.config.planned import planned_config
from bakeoff.errors import printable, printable_within
from bakeoff.report.charts.drawing import Point
from bakeoff.report.view import in_view
from bakeoff.store.documents import ExampleRow, PredictionRow
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.results_document import ResultsDocument, ResultsRow
from bakeoff.store.run_folder import Folder, RunFolder


@dataclass(frozen=True)
class Source:
    """`results` of one of the `folders`, or of all together, with every text made printable.

    `config` is the YAML that runs it again.
    """

    results: ResultsDocument
    folders: Sequence[Folder]
    config: str

    @classmethod
    def of(cls, folders: Sequence[Folder], results: ResultsDocument) -> "Source":
        """Return the source of a bakeoff, or of several whose results are one document."""
        configs = [dump_config(planned_config(folder, folder.plan())) for folder in folders]
        if len(folders) > 1:
            configs = [f"# {printable(f.path)}\n{text}" for f, text in zip(folders, configs, strict=True)]
        return cls(results.printable(), folders, printable_within("---\n".join(configs)))

    def shown(self) -> "Source":
        """Return the source of figures and examples: of many entries, only as many as a reader can distinguish."""
        return replace(self, results=in_view(self.results))

    def examples(self) -> Iterator[ExampleRow]:
        """Yield the test examples as they are, not made printable."""
        return self.folders[0].examples("test")

    def files(self, row: ResultsRow) -> list[RunFolder]:
        """Return the files of a row's runs, also of those that never started."""
        return [self.folders[row.place].run(run) for run in row.runs]

    @cached_property
    def plans(self) -> list[PlanDocument]:
        """The plan of each folder, read once for all rows."""
        return [folder.plan() for folder in self.folders]

    def predictions(self, row: ResultsRow) -> list[PredictionRow]:
        """Return the predictions of a row's first finished run as they are; an empty list where none has finished."""
        folder, plan = self.folders[row.place], self.plans[row.place]
        done = (folder.run(run) for run in row.runs if (r := folder.result(run, plan)) and r.status == "done")
        return next((files.predictions() for files in done), [])

    def curve_rows(self) -> list[Point]:
        """Return every entry's losses as rows: entry, run, step, epoch, train, validation, and kept.

        `kept` is true at the lowest validation loss of a run, the step of its checkpoint.
        """
        rows: list[Point] = []
        for name, row in self.results.entries.items():
            for files in self.files(row):
                own: list[Point] = [
                    {"entry": name, "run": files.path.name, "step": int(p.step), "epoch": p.epoch,
                     "train": p.train_loss, "validation": p.validation_loss, "kept": False}
                    for p in files.curve()
                ]  # fmt: skip
                validations = [p for p in own if p["validation"] is not None]
                if validations:
                    min(validations, key=lambda p: p["validation"])["kept"] = True
                rows += own
        return rows

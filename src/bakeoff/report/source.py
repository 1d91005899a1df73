"""What a page is made from: results, and where the records behind them lie."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.integrity import read_whole
from bakeoff.records import Folder, RunFolder
from bakeoff.report.charts.drawing import Point


@dataclass(frozen=True)
class Source:
    """`results` as results.json has them, `run` finds a run's folder, `test` is the folder of the test examples.

    `config` is the YAML that runs it again.
    """

    results: dict[str, Any]
    run: Callable[[str], RunFolder]
    test: Folder
    config: str

    @classmethod
    def of(cls, folder: Folder, results: dict[str, Any]) -> "Source":
        """Return the source of one bakeoff."""
        return cls(results, folder.run, folder, read_whole(folder.config_file).decode())

    @classmethod
    def of_several(cls, folders: Sequence[Folder], results: dict[str, Any]) -> "Source":
        """Return the source of several bakeoffs whose results are one document."""
        places = {path.name: folder for folder in folders for path in folder.path.glob("runs/*")}
        configs = [f"# {folder.path}\n{read_whole(folder.config_file).decode()}" for folder in folders]
        return cls(results, lambda run: places[run].run(run), folders[0], "---\n".join(configs))

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yield the test examples."""
        return self.test.examples("test")

    def predictions(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the predictions of a row's first finished run; an empty list where none has finished."""
        return next((files.predictions() for i in row["runs"] if (files := self.run(i)).done()), [])

    def curve_rows(self) -> list[Point]:
        """Return every entry's losses as rows: entry, run, step, epoch, train, validation, and kept.

        `kept` is true at the lowest validation loss of a run, where its checkpoint was taken.
        """
        rows: list[Point] = []
        for name, row in self.results["entries"].items():
            for run in row["runs"]:
                own: list[Point] = [
                    {"entry": name, "run": run, "step": int(p["step"]), "epoch": p["epoch"],
                     "train": p.get("train/loss"), "validation": p.get("validation/loss"), "kept": False}
                    for p in self.run(run).curve()
                ]  # fmt: skip
                validations = [p for p in own if p["validation"] is not None]
                if validations:
                    min(validations, key=lambda p: p["validation"])["kept"] = True
                rows += own
        return rows

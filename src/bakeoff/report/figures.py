"""All figures of a bakeoff, and their files."""

import re
from dataclasses import dataclass
from pathlib import Path

from altair.utils.schemapi import debug_mode

from bakeoff.errors import SetupError
from bakeoff.report.charts.bars import cost_bars
from bakeoff.report.charts.budgets import budget_figures
from bakeoff.report.charts.curves import curves
from bakeoff.report.charts.drawing import Figure
from bakeoff.report.charts.looks import look_figures
from bakeoff.report.charts.pairs import pair_figures
from bakeoff.report.charts.quality import Axis, costs, qualities, quality_cost
from bakeoff.report.charts.sweep import sweeps
from bakeoff.report.preferences import preference_figures
from bakeoff.report.source import Source
from bakeoff.store.checksums import digest, read_mapping
from bakeoff.store.files import write_json, write_text
from bakeoff.store.results_document import ResultsDocument

MANIFEST = ".figures.json"  # names the files that a report wrote: nothing else in their folder is ever removed


@dataclass(frozen=True)
class Axes:
    """Quality against cost: the axes that have a figure, and the figure of each pair of axes."""

    qualities: list[Axis]
    costs: list[Axis]
    figures: dict[tuple[str, str], Figure]


@dataclass(frozen=True)
class Figures:
    """A page's figures by section."""

    axes: Axes
    curves: list[Figure]
    sweeps: list[Figure]
    budgets: list[Figure]
    pairs: list[Figure]
    looks: list[Figure]
    preferences: list[Figure]
    bars: list[Figure]

    def all(self) -> list[Figure]:
        """Return every figure."""
        tuning = [*self.sweeps, *self.budgets]
        differences = [*self.pairs, *self.looks, *self.preferences]
        return [*self.axes.figures.values(), *self.curves, *tuning, *differences, *self.bars]


def draw_figures(source: Source) -> Figures:
    """Return the figures of everything that has finished so far."""
    results = source.results
    with debug_mode(False):  # Altair checks every part of a chart against its schema, which takes a tenth of a report
        return Figures(
            axes=draw_axes(results),
            curves=curves(source.curve_rows(), results),
            sweeps=sweeps(results),
            budgets=budget_figures(results),
            pairs=pair_figures(results.verdict),
            looks=look_figures(results.verdict),
            preferences=preference_figures(results),
            bars=cost_bars(results),
        )


def draw_axes(results: ResultsDocument) -> Axes:
    """Return quality against cost for every quality and every cost."""
    ys, xs = qualities(results), costs(results)
    figures = {(y.name, x.name): f for y in ys for x in xs if (f := quality_cost(results, y, x))}
    shown = {name for pair in figures for name in pair}
    return Axes([y for y in ys if y.name in shown], [x for x in xs if x.name in shown], figures)


def check_own(page: Path, folder: Path) -> None:
    """Raise SetupError if a page, or the folder of its figures, exists and no report has written it."""
    if (folder / MANIFEST).exists():
        written = read_mapping(folder / MANIFEST).get("page")
        if written and page.exists() and digest(page) != written:
            raise SetupError(f"{page}: was edited since bakeoff wrote it. Try: another name after -o")
        return
    if page.exists():
        raise SetupError(f"{page}: exists, and bakeoff did not write it. Try: another name after -o")
    if folder.exists() and any(folder.iterdir()):
        raise SetupError(f"{folder}: contains other files, but the page's figures go there. Try: another name after -o")


def note_page(page: Path, folder: Path) -> None:
    """Write the page's hash into the manifest of its figures, so that an edited page is recognised."""
    write_json(folder / MANIFEST, {**read_mapping(folder / MANIFEST), "page": digest(page)})


def write_figures(folder: Path, figures: list[Figure], own: bool = True) -> None:
    """Write each figure's SVG and CSV into `folder`, in place of those of an earlier report.

    Raises SetupError if the folder is not a run folder's `own`, and somebody has put a file of that name there.
    """
    files = {f"{figure.name}.svg": figure.file for figure in figures}
    files |= {f"{figure.name}.csv": figure.csv for figure in figures}
    before = read_mapping(folder / MANIFEST).get("files", [])
    before = before if isinstance(before, list) else []
    for name in files:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise SetupError(f"{folder}: {name!r:.80} is not the name of a figure. Try: bakeoff run again")
        if not own and name not in before and (folder / name).exists():
            raise SetupError(f"{folder / name}: exists, and bakeoff did not write it. Try: another name after -o")
    for name in set(map(str, before)) - files.keys():
        if re.fullmatch(r"[^/]+\.(svg|csv)", name):  # the manifest may have come from elsewhere
            (folder / name).unlink(missing_ok=True)
    write_json(folder / MANIFEST, {"files": sorted(files)})
    for name, text in files.items():
        write_text(folder / name, text)

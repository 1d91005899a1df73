"""All figures of a bakeoff, and their files."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakeoff.files import write_text
from bakeoff.report.charts.bars import cost_bars
from bakeoff.report.charts.curves import curves
from bakeoff.report.charts.drawing import Figure
from bakeoff.report.charts.pairs import pair_figures
from bakeoff.report.charts.quality import Axis, costs, qualities, quality_cost
from bakeoff.report.charts.sweep import sweeps
from bakeoff.report.source import Source


@dataclass(frozen=True)
class Axes:
    """Quality against cost: the axes that have a figure, and the figure of each two."""

    qualities: list[Axis]
    costs: list[Axis]
    figures: dict[tuple[str, str], Figure]


@dataclass(frozen=True)
class Figures:
    """A page's figures by section."""

    axes: Axes
    curves: list[Figure]
    sweeps: list[Figure]
    pairs: list[Figure]
    bars: list[Figure]

    def all(self) -> list[Figure]:
        """Return every figure."""
        return [*self.axes.figures.values(), *self.curves, *self.sweeps, *self.pairs, *self.bars]


def draw_figures(source: Source) -> Figures:
    """Return the figures of what has finished so far."""
    results = source.results
    return Figures(
        axes=draw_axes(results),
        curves=curves(source.curve_rows(), results),
        sweeps=sweeps(results),
        pairs=pair_figures(results["verdict"]),
        bars=cost_bars(results),
    )


def draw_axes(results: dict[str, Any]) -> Axes:
    """Return quality against cost for every quality and every cost."""
    ys, xs = qualities(results), costs(results)
    figures = {(y.name, x.name): f for y in ys for x in xs if (f := quality_cost(results, y, x))}
    shown = {name for pair in figures for name in pair}
    return Axes([y for y in ys if y.name in shown], [x for x in xs if x.name in shown], figures)


def write_figures(folder: Path, figures: list[Figure]) -> None:
    """Write each figure's SVG and CSV into `folder`, in place of what an earlier report left there."""
    shutil.rmtree(folder, ignore_errors=True)
    for figure in figures:
        write_text(folder / f"{figure.name}.svg", figure.file)
        write_text(folder / f"{figure.name}.csv", figure.csv)

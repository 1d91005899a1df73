"""A table whose columns have known widths. Rich's own measures and wraps each cell, which takes ten times as long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.progress_bar import ProgressBar
from rich.segment import Segment

from bakeoff.errors import printable


@dataclass(frozen=True)
class Cell:
    """A text with the name of a style, or a bar."""

    content: str | ProgressBar
    style: str = ""


@dataclass(frozen=True)
class Lines:
    """Columns with these headings and widths, of which the first `left` are aligned left, and the rows' cells."""

    headings: Sequence[str]
    widths: Sequence[int]
    rows: Sequence[Sequence[Cell]]
    left: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield Segment(self.line(self.headings).rstrip(), console.get_style("table.header"))
        yield Segment.line()
        for row in self.rows:
            start = 0
            for place, cell in enumerate(row):
                if isinstance(cell.content, ProgressBar) or cell.style:
                    yield Segment(self.line([str(c.content) for c in row[start:place]], start))
                    yield from self.drawn(cell, place, console, options)
                    start = place + 1
            yield Segment(self.line([str(c.content) for c in row[start:]], start).rstrip())
            yield Segment.line()

    def drawn(self, cell: Cell, place: int, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield what is shown of a cell that is more than text, and the space after it."""
        if isinstance(cell.content, str):
            yield Segment(self.line([cell.content], place), console.get_style(cell.style))
            return
        bar = [part for part in cell.content.__rich_console__(console, options) if isinstance(part, Segment)]
        yield from bar
        yield Segment(" " * (1 + self.widths[place] - sum(part.cell_length for part in bar)))

    def line(self, texts: Sequence[str], first: int = 0) -> str:
        """Return texts side by side in the columns from the `first` one on, each with a space after it."""
        places = range(first, first + len(texts))
        cells = [fitted(t, self.widths[i], i < self.left) for i, t in zip(places, texts, strict=True)]
        return "".join(f"{cell} " for cell in cells)


def fitted(text: str, width: int, left: bool) -> str:
    """Return a text with exactly this width; what is cut off is shown by an ellipsis."""
    text = printable(text)
    there = cell_len(text)
    if there > width:
        return set_cell_size(text, width - 1) + "…"
    return text + " " * (width - there) if left else " " * (width - there) + text

"""The live table in a notebook: HTML that is replaced as events come."""

import time
from collections.abc import Callable, Collection, Sequence
from io import StringIO

from rich.console import Console

from bakeoff.errors import printable
from bakeoff.progress.display import Clock
from bakeoff.progress.eta import Forecast
from bakeoff.progress.live import REDRAW_SECONDS, TableDisplay
from bakeoff.store.events import RunEvent
from bakeoff.store.records import Run

WIDTH = 120


class NotebookDisplay(TableDisplay):
    """The table in a notebook's output, replaced as events come; `publish` receives its HTML."""

    def __init__(
        self,
        runs: Sequence[Run],
        done: Collection[str],
        forecast: Forecast | None,
        clock: Clock,
        publish: Callable[[str], None] | None = None,
    ):
        height = len(runs) + 20
        super().__init__(runs, done, forecast, clock, Console(file=StringIO(), width=WIDTH, height=height))
        self.publish = publish or notebook_publisher()
        self.notes: list[str] = []
        self.drawn = float("-inf")

    def show(self, event: RunEvent) -> None:
        """Take in an event, and redraw unless that was done just now."""
        super().show(event)
        if event.kind != "progress" or time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.draw()

    def note(self, text: str) -> None:
        """Put a line above the table."""
        self.notes.append(text)
        self.draw()

    def draw(self) -> None:
        """Publish the current notes and table."""
        self.drawn = time.monotonic()
        console = Console(
            file=StringIO(), width=self.console.width, height=self.console.height, record=True, force_jupyter=False
        )
        console.print(*map(printable, self.notes), sep="\n", markup=False, highlight=False)
        if self.rows:
            console.print(self.render())
        style = "font-family: monospace; line-height: 1.3"
        self.publish(console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'))


def notebook_publisher() -> Callable[[str], None]:
    """Return a function that puts HTML in the place of the HTML that it put there before."""
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda html: handle.update(HTML(html))

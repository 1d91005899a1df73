"""What `run`, `show` and `report` print of a grid, and of bakeoffs that are read over tasks."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from bakeoff.cli.terminal import open_console, say, say_line, whisper


def run_grid_and_show(file: Path, overrides: dict[str, Any], display: str) -> None:
    """Run a grid, print each verdict and the joint one, and exit with 1 if a run failed."""
    from bakeoff.grids import run_grid

    results, page = run_grid(file, overrides, display)
    for result in results:
        say(f"{result.document.name}: {result.verdict}")
    if page:
        print_tasks(page)
    if any(result.document.status != "done" for result in results):
        sys.exit(1)


def print_tasks(page: Path, as_json: bool = False) -> None:
    """Print the joint table and verdict of a page; say it if what is known of a grid's runs has changed since."""
    from bakeoff.report.tasks import stale, stored_tasks, tasks_table

    document = stored_tasks(page)
    if line := stale(document, page):
        whisper(line)
    if as_json:
        click.echo(json.dumps(document.row(), indent=1))
        return
    console = open_console()
    console.print(tasks_table(document))
    for line in document.notes:
        say_line(console, line, "yellow")
    say_line(console, document.text)
    say(f"report: {page}")

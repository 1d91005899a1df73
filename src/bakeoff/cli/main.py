"""The command line: parse, call, print. Heavy imports happen inside the commands."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bakeoff.cli.export import export
from bakeoff.cli.generate import generate
from bakeoff.cli.grid import print_tasks, run_grid_and_show
from bakeoff.cli.group import DISPLAY, TRUST, Commands, overrides
from bakeoff.cli.preferences import judge, taste
from bakeoff.cli.serve import serve
from bakeoff.cli.setup import AS_JSON, doctor, init, schema
from bakeoff.cli.terminal import open_console, say, say_line, whisper

if TYPE_CHECKING:
    from bakeoff.store.results_document import ResultsDocument


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bakeoff")
def main() -> None:
    """Find out which way of adapting a language model is worth its cost on your task."""


for command in (init, schema, doctor, generate, export, judge, serve, taste):
    main.add_command(command)


def run_and_show(source: Path, settings: dict[str, Any], display: str, trust: bool = False) -> None:
    """Run a bakeoff, print its table and verdict, and exit with 1 if a run failed."""
    from bakeoff import api

    results = api.run(source, settings, display, trust)
    print_results(results.document)
    say(f"report: {results.folder.report_file}")
    if results.document.status != "done":
        sys.exit(1)


def print_results(document: "ResultsDocument") -> None:
    """Print the table and the verdict."""
    from bakeoff.analysis.remarks import failures, remarks
    from bakeoff.analysis.table import text_table

    console = open_console()
    console.print(text_table(document, console.width))
    for line in failures(document):
        say_line(console, line, "red")
    for line in remarks(document):
        say_line(console, line, "yellow")
    say_line(console, document.verdict.text)


@main.command()
@click.option("--full", is_flag=True, help="Tune every method with four trials, then train it with three seeds.")
@click.option("--rounds", is_flag=True, help="Train every method with three seeds, and with more where it may help.")
@overrides
@DISPLAY
def demo(full: bool, rounds: bool, settings: dict[str, Any], display: str) -> None:
    """Run the demo.

    It compares three methods on the task of writing the summary line of a Python docstring. The small base model and
    the data come with bakeoff, so it needs no network.
    """
    from bakeoff.store.files import ASSETS

    if full and rounds:
        raise click.UsageError("--full and --rounds are two demos. Try one after the other")
    name = "demo_full" if full else "demo_rounds" if rounds else "demo"
    run_and_show(ASSETS / f"{name}.yaml", settings, display)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides
@DISPLAY
@TRUST
def run(file: Path, settings: dict[str, Any], display: str, trust: bool) -> None:
    """Run the bakeoff that FILE describes.

    FILE is a config. Results go to the run folder, bakeoffs/NAME if the config has `name: NAME`. Ctrl-C interrupts the
    bakeoff. Run the same command again to resume; finished runs are not repeated. With `tasks` or `models` in FILE it
    is a grid: a bakeoff of every task on every model, each in a folder of its own, and a joint report over them.
    """
    from bakeoff.config.grid import is_grid

    if is_grid(file):
        run_grid_and_show(file, settings, display)
    else:
        run_and_show(file, settings, display, trust)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@DISPLAY
def watch(folder: Path, display: str) -> None:
    """Show the progress of a running bakeoff.

    FOLDER is its run folder. Another process runs the bakeoff; this command only reads, and ends when the bakeoff ends.
    """
    from bakeoff.progress.watch import watch
    from bakeoff.store.run_folder import Folder

    watch(Folder(folder), display)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides
@click.option(
    "--probe",
    is_flag=True,
    help="Also start short measurements: the time and memory that each entry takes on its longest batch.",
)
@TRUST
@AS_JSON
def plan(file: Path, settings: dict[str, Any], probe: bool, trust: bool, as_json: bool) -> None:
    """Show what FILE would run.

    FILE is a config. Shows runs, steps, exact parameter counts, and problems of the data. Starts no run, and writes
    nothing.
    """
    from bakeoff.api import plan as make
    from bakeoff.config.grid import is_grid

    grid, lines = is_grid(file), list[str]()
    if grid:
        from bakeoff.grids import plan_grid

        documents, lines = plan_grid(file, settings, probe)
    else:
        documents = [make(file, settings, probe, trust)]
    if as_json:
        click.echo(json.dumps(documents if grid else documents[0], indent=1))
        return
    from bakeoff.report.plan import plan_lines, plan_table
    from bakeoff.store.plan_document import PlanDocument

    console = open_console()
    for made in map(PlanDocument.model_validate, documents):
        console.print(plan_table(made))
        for line in plan_lines(made):
            say_line(console, line)
    for line in lines:
        say_line(console, line, "yellow")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--prefer",
    type=click.Choice(["quality", "memory", "size", "time"]),
    help="Also recommend an entry: of those tied with the best, the one with the lowest validation loss (quality); of "
    "those shown to be within protocol.worth of it, the one with the lowest peak memory (memory), smallest adapter "
    "(size) or shortest training (time).",
)
@AS_JSON
def show(folder: Path, prefer: str | None, as_json: bool) -> None:
    """Print the table and the verdict.

    FOLDER is the run folder of a bakeoff, or a grid's folder. With --json the recommendation of --prefer is under the
    key `preferred`.
    """
    from bakeoff.results import load_results
    from bakeoff.store.grid_folder import GridFolder

    grid = GridFolder(folder)
    if grid.is_grid() and not prefer:
        print_tasks(grid.page, as_json)
        return

    document = load_results(folder).document
    text, shown = None, document.row()
    if prefer:
        from bakeoff.report.differences import recommendation

        text = recommendation(document, prefer)
        entry = document.verdict.recommendations[prefer]
        shown["preferred"] = {"for": prefer, "entry": entry, "text": text}
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    print_results(document)
    if text:
        say(text)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="File of the page; its figures are written beside it.  [default: FOLDER/report.html; with several folders "
    "comparison.html]",
)  # fmt: skip
@click.option(
    "--over", type=click.Choice(["tasks"]),
    help="With the folders of several tasks, or of a grid: write one page that says what holds over the tasks.",
)  # fmt: skip
def report(folders: tuple[Path, ...], output: Path | None, over: str | None) -> None:
    """Write the report again, or compare bakeoffs.

    Writes the HTML page, figures, CSV and Markdown of the bakeoff in the run folder FOLDER; with -o only the page and
    its figures, elsewhere. With several folders, writes one page that compares all their entries, if their settings
    are equal. A grid's folder has a joint page over its tasks.
    """
    from bakeoff.reporting import compare, over_tasks, refresh_report
    from bakeoff.store.grid_folder import GridFolder

    if over or any(GridFolder(folder).is_grid() for folder in folders):
        print_tasks(over_tasks(folders, output))
    elif len(folders) == 1 and output is None:
        say(refresh_report(folders[0]))
    else:
        say(compare(folders, output or "comparison.html"))


@main.command()
@click.argument("name", required=False)
@click.option(
    "--architectures", is_flag=True, help="Test every architecture of transformers with a tiny model; takes minutes."
)
@click.option(
    "--keep",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --architectures: store results in FILE, and resume from it.",
)
@click.option(
    "--matrix",
    is_flag=True,
    help="Test all methods, or the one named, with a tiny model of every family; takes minutes.",
)
@AS_JSON
def methods(name: str | None, matrix: bool, architectures: bool, keep: Path | None, as_json: bool) -> None:
    """List the methods, or show one.

    With NAME, shows the fields, defaults, search range and paper of that method. The name of a config of PEFT, such as
    OFTConfig, shows what an entry of the method peft can set.
    """
    if architectures and (name or matrix):
        raise click.UsageError("--architectures is a test of its own. Try: without NAME and --matrix")
    if keep and not architectures:
        raise click.UsageError("--keep is for --architectures alone. Try: without it")
    if architectures:
        from bakeoff.store.files import writing
        from bakeoff.testing.architectures import architecture_rows, architectures_page
        from bakeoff.testing.architectures import architectures as known

        with writing(keep or Path(), "--keep FILE, another file"):
            rows = architecture_rows(dict(known()), keep, whisper)
        click.echo(json.dumps(rows, indent=1) if as_json else architectures_page(rows))
        return
    if matrix:
        from bakeoff.testing.matrix import capability_matrix, matrix_page, matrix_table

        cells = capability_matrix([name] if name else [])
        text = matrix_table(cells) if name else matrix_page(cells)
        say(json.dumps(cells, indent=1) if as_json else text)
        return
    from bakeoff.methods.reference import describe_method, describe_methods, method_document

    if as_json:
        click.echo(json.dumps(method_document(name), indent=1))
        return
    say(describe_method(name) if name else describe_methods())


if __name__ == "__main__":
    main()

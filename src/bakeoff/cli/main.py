"""The command line: parse, call, print. Heavy imports happen inside the commands."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import click

from bakeoff.cli.group import DISPLAY, OVERRIDES, TRUST, Commands
from bakeoff.cli.setup import AS_JSON, doctor, init, schema
from bakeoff.cli.terminal import open_console, say, say_line, whisper
from bakeoff.errors import LINES, BakeoffError, no_utf8, printable


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bakeoff")
def main() -> None:
    """Find out which way of adapting a language model is worth its cost on your task."""


for command in (init, schema, doctor):
    main.add_command(command)


def parse(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return -s options as dotted overrides."""
    from bakeoff.config.yaml import parse_override

    return dict(parse_override(text) for text in settings)


def run_and_show(source: Path, settings: tuple[str, ...], display: str, trust: bool = False) -> None:
    """Run a bakeoff, print its table and verdict, and exit with 1 where a run failed."""
    from bakeoff import api

    results = api.run(source, parse(settings), display, trust)
    print_results(results.document)
    say(f"report: {results.folder.report_file}")
    if results.document["status"] != "done":
        sys.exit(1)


def print_results(document: dict[str, Any]) -> None:
    """Print the table and the verdict."""
    from bakeoff.analysis.table import failures, remarks, text_table

    console = open_console()
    console.print(text_table(document, console.width))
    for line in failures(document):
        say_line(console, line, "red")
    for line in remarks(document):
        say_line(console, line, "yellow")
    say_line(console, document["verdict"]["text"])


@main.command()
@click.option("--full", is_flag=True, help="Tune every method with four trials, then train it with three seeds.")
@OVERRIDES
@DISPLAY
def demo(full: bool, settings: tuple[str, ...], display: str) -> None:
    """Run a whole bakeoff offline: three methods, the embedded base, the docstring task."""
    from bakeoff.store.files import ASSETS

    run_and_show(ASSETS / f"{'demo_full' if full else 'demo'}.yaml", settings, display)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@OVERRIDES
@DISPLAY
@TRUST
def run(file: Path, settings: tuple[str, ...], display: str, trust: bool) -> None:
    """Run the bakeoff described in FILE; the same command goes on where an interrupted one stopped."""
    run_and_show(file, settings, display, trust)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@DISPLAY
def watch(folder: Path, display: str) -> None:
    """Look on while another process runs the bakeoff in FOLDER; ends with it. Writes nothing."""
    from bakeoff.progress.watch import watch
    from bakeoff.store.run_folder import Folder

    watch(Folder(folder), display)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@OVERRIDES
@click.option("--probe", is_flag=True, help="Also measure each entry on its longest batch: how long, how much memory.")
@TRUST
@AS_JSON
def plan(file: Path, settings: tuple[str, ...], probe: bool, trust: bool, as_json: bool) -> None:
    """Show what FILE would run: runs, steps, exact parameter counts, what is odd about the data. Writes nothing."""
    from bakeoff.api import plan as make

    document = make(file, parse(settings), probe, trust)
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    from bakeoff.report.plan import plan_lines, plan_table

    console = open_console()
    console.print(plan_table(document))
    for line in plan_lines(document):
        say_line(console, line)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--prefer",
    type=click.Choice(["quality", "memory", "size", "time"]),
    help="Also name the entry to take, among those tied with the best.",
)
@AS_JSON
def show(folder: Path, prefer: str | None, as_json: bool) -> None:
    """Print the table and the verdict of the bakeoff in FOLDER.

    With --json the choice of --prefer is its key `preferred`.
    """
    from bakeoff.results import load_results

    document = load_results(folder).document
    text = None
    if prefer:
        from bakeoff.report.differences import recommendation

        text = recommendation(document, prefer)
        entry = document["verdict"]["recommendations"][prefer]
        document = document | {"preferred": {"for": prefer, "entry": entry, "text": text}}
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    print_results(document)
    if text:
        say(text)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Write the page there, its figures beside it.  [default: FOLDER/report.html; of several comparison.html]",
)  # fmt: skip
def report(folders: tuple[Path, ...], output: Path | None) -> None:
    """Write the HTML page, figures, CSV and Markdown of the bakeoff in FOLDER again; with -o one page elsewhere.

    Of several: one page over all their entries, where they held the same things equal.
    """
    from bakeoff.api import compare, refresh_report

    if len(folders) == 1 and output is None:
        say(refresh_report(folders[0]))
    else:
        say(compare(folders, output or "comparison.html"))


@main.command()
@click.argument("name", required=False)
@click.option("--architectures", is_flag=True, help="Try every architecture of transformers, made tiny: minutes.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="With --architectures: what was found is kept in FILE, and resumes."
)
@click.option("--matrix", is_flag=True, help="Try all methods, or that one, on a tiny model of every family: minutes.")
@AS_JSON
def methods(name: str | None, matrix: bool, architectures: bool, keep: Path | None, as_json: bool) -> None:
    """List the methods, or show the fields, defaults, search range and paper of one."""
    if architectures:
        from bakeoff.testing.architectures import architecture_rows, architectures_page
        from bakeoff.testing.architectures import architectures as known

        rows = architecture_rows(dict(known()), keep, whisper)
        click.echo(json.dumps(rows, indent=1) if as_json else architectures_page(rows))
        return
    if matrix:
        from bakeoff.testing.matrix import capability_matrix, matrix_page, matrix_table

        found = capability_matrix([name] if name else [])
        text = matrix_table(found) if name else matrix_page(found)
        say(json.dumps(found, indent=1) if as_json else text)
        return
    from bakeoff.methods.reference import describe_method, describe_methods, method_document

    if as_json:
        click.echo(json.dumps(method_document(name), indent=1))
        return
    say(describe_method(name) if name else describe_methods())


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--entry", help="Which adapter; default: of the lowest validation loss among those tied with the best.")
@click.option("--rows", is_flag=True, help="Standard input is JSONL: rows with the columns that the template takes.")
@TRUST
@AS_JSON
def generate(folder: Path, entry: str | None, rows: bool, trust: bool, as_json: bool) -> None:
    """Read documents from standard input, separated by form feeds, and print the adapter's output for each.

    Outputs are separated by form feeds too; a blank document has an empty one.
    """
    from bakeoff.results import load_results

    results = load_results(folder)
    chosen = results.entry(entry) if entry else results.best()
    documents = read_rows() if rows else read_documents()
    summarizer = chosen.load(trust)
    whisper(f"entry: {chosen.name}")
    if summarizer.note:
        whisper(summarizer.note)
    for i, (kept, total) in summarizer.cut(documents).items():
        whisper(f"document {i + 1}: {kept:,} of {total:,} tokens kept")
    outputs = summarizer.generate(documents)
    if as_json:
        click.echo(json.dumps([{"document": i, "output": text} for i, text in enumerate(outputs, 1)], indent=1))
        return
    if sys.stdout.isatty():  # to a file or a pipe go the outputs as they are
        outputs = [printable(text, LINES) for text in outputs]
    click.echo("\n\f\n".join(outputs))


def read_documents() -> list[str]:
    """Return the documents on standard input; raise BakeoffError where there are none, or they are no UTF-8 text."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    try:
        documents = sys.stdin.read().split("\f")
    except UnicodeDecodeError as error:
        raise BakeoffError(f"generate: standard input: {no_utf8(error)}") from None
    except OSError as error:
        raise BakeoffError(f"generate: standard input cannot be read ({error.strerror or error})") from None
    if sys.stdin.isatty() and not documents[-1].endswith("\n"):
        whisper("")  # what was typed last has no line end, and what is printed next would stand beside it
    if not any(text.strip() for text in documents):
        raise BakeoffError("generate: nothing on standard input. Try: bakeoff generate DIR < document.txt")
    return documents


def read_rows() -> list[dict[str, Any]]:
    """Return the rows of JSONL on standard input; raise BakeoffError where one is none."""
    from bakeoff.data.lines import json_row

    lines = enumerate("\f".join(read_documents()).split("\n"), start=1)
    rows = [json_row("standard input", number, text.encode()) for number, text in lines if text.strip()]
    for row in rows:
        if row.fault:
            raise BakeoffError(f"generate: {row}: {row.fault[1]}")
    return [row.values for row in rows]


if __name__ == "__main__":
    main()

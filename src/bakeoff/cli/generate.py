"""The command `generate`: reads documents from standard input and prints an adapter's outputs."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from bakeoff.cli.group import DEVICE, TRUST
from bakeoff.cli.setup import AS_JSON
from bakeoff.cli.terminal import whisper
from bakeoff.errors import LINES, BakeoffError, no_utf8, printable


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--entry",
    help="Entry whose adapter is used, or a prompted baseline such as nearest-4.  [default: the entry with the lowest "
    "validation loss among those tied with the best]",
)
@DEVICE
@click.option(
    "--rows",
    is_flag=True,
    help="Read JSONL from standard input: rows with the columns that the template uses, or with the turns of a "
    "conversation so far.",
)
@TRUST
@AS_JSON
def generate(folder: Path, entry: str | None, device: str, rows: bool, trust: bool, as_json: bool) -> None:
    r"""Write outputs with a trained adapter.

    FOLDER is the run folder of a bakeoff. The command reads documents from standard input, and prints an output for
    each. Form feeds separate the documents, and also the outputs. The output of a blank document is empty.

    For example: printf 'one\ftwo' | bakeoff generate FOLDER
    """
    from bakeoff.driver.run_server import gpu_environment
    from bakeoff.results import load_results

    os.environ.update(gpu_environment(device))
    results = load_results(folder)
    chosen = results.usable(entry)
    documents = read_rows() if rows else read_documents()
    summarizer = chosen.load(trust, device)
    cut = summarizer.cut(documents)  # first of all: it refuses what is no document
    whisper(f"entry: {chosen.name}")
    if summarizer.note:
        whisper(summarizer.note)
    for i, (kept, total) in cut.items():
        whisper(f"document {i + 1} was cut to {kept:,} of {total:,} tokens")
    outputs = summarizer.generate(documents)
    if as_json:
        click.echo(json.dumps([{"document": i, "output": text} for i, text in enumerate(outputs, 1)], indent=1))
        return
    if sys.stdout.isatty():  # to a file or a pipe go the outputs as they are
        outputs = [printable(text, LINES) for text in outputs]
    click.echo("\n\f\n".join(outputs))


def read_documents() -> list[str]:
    """Return the documents on standard input; raise BakeoffError if there are none, or they are not UTF-8."""
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
    """Return the rows of JSONL on standard input; raise BakeoffError if one is not a row."""
    from bakeoff.data.lines import json_row

    lines = enumerate("\f".join(read_documents()).split("\n"), start=1)
    rows = [json_row("standard input", number, text.encode()) for number, text in lines if text.strip()]
    for row in rows:
        if row.fault:
            raise BakeoffError(f"generate: {row}: {row.fault[1]}")
    return [row.values for row in rows]

"""The first commands that a person uses: init, schema, doctor. They parse, call and print."""

import json
import shlex
import sys
from pathlib import Path

import click

from bakeoff.cli.group import DEVICE
from bakeoff.cli.terminal import say

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="bakeoff.yaml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Config file to write.",
)
@click.option("-m", "--model", default="base", show_default=True, help="Base model: a hub id, a model folder, or base.")
def init(files: tuple[Path, ...], output: Path, model: str) -> None:
    """Write a config for data FILEs.

    It guesses the columns, and explains every option. A single file is split by bakeoff; the names of several files
    must say which split each is (train, validation or dev, test). Without a file the config uses the task of the demo.
    The JSON Schema of the config is written beside it, for editors. If the config file exists, the command stops and
    changes nothing; a schema file that exists is kept.
    """
    from bakeoff.cli.init import draft, write_new
    from bakeoff.cli.schema import SCHEMA_FILE, json_schema

    drafted = draft(files, output, model)
    write_new(output, drafted.text)
    schema = output.with_name(SCHEMA_FILE)
    if not schema.exists():
        write_new(schema, json_schema())
    for guess in drafted.guesses:
        say(guess, keep="")
    say(f"wrote {output}. Check it, then: bakeoff plan {shlex.quote(str(output))}")


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write, for editors.  [default: standard output]",
)
def schema(output: Path | None) -> None:
    """Print the JSON Schema of the config.

    With it, editors complete, explain and check a config as you type.
    """
    from bakeoff.cli.init import write_new
    from bakeoff.cli.schema import json_schema

    if output is None:
        click.echo(json_schema())
        return
    write_new(output, json_schema())
    say(f"wrote {output}. Put this first in a config: # yaml-language-server: $schema={output}")


@click.command()
@DEVICE
@AS_JSON
def doctor(device: str, as_json: bool) -> None:
    """Check this machine.

    Prints the environment (for bug reports) and problems with advice. Runs a tiny bakeoff with a causal model, and one
    with an encoder-decoder. Exits with 1 if something will not work.
    """
    from bakeoff.analysis.columns import size
    from bakeoff.cli.doctor import examine

    report = examine(device)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        for name, value in report["environment"].items():
            shown = size(value) if value and name.endswith("_bytes") else value or "none"
            say(f"{name.removesuffix('_bytes')}: {shown}")
        say("")
        for check in report["checks"]:
            say(f"{check['status']:8} {check['name']}: {check['text']}")
    if any(check["status"] == "problem" for check in report["checks"]):
        sys.exit(1)

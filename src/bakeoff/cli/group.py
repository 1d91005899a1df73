"""What all commands share: options, and how a command ends after errors and interrupts."""

import re
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from bakeoff.cli.terminal import check_working_folder, streams, warn_of_plug_ins, whisper
from bakeoff.errors import BakeoffError

DISPLAY = click.option(
    "--display", type=click.Choice(["auto", "live", "plain", "json", "none"]), default="auto", show_default=True,
    help="How to show progress on standard error: a live table, plain lines, JSON lines or nothing.",
)  # fmt: skip
TRUST = click.option(
    "--trust", is_flag=True,
    help="Only for a run folder from elsewhere: allow the model folder, code and trackers that its config names. "
    "Without --trust the command lists what it would use, and stops.",
)  # fmt: skip


def parsed(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of -s as dotted overrides."""
    from bakeoff.config.yaml import parse_override

    return dict(parse_override(text) for text in texts)


SET = click.option(
    "-s",
    "--set",
    "settings",
    multiple=True,
    callback=parsed,
    metavar="KEY=VALUE",
    help="Override a value of the config, for example -s protocol.epochs=1. VALUE is read as YAML, or as text if it is "
    "not YAML.",
)
DEVICES = "auto (a GPU if there is one), cpu, cuda, cuda:1 (the second GPU), xpu or mps."
DEVICE = click.option("--device", metavar="DEVICE", default="auto", show_default=True, help=f"Device to use: {DEVICES}")
OVERRIDING = click.option(
    "--device", metavar="DEVICE", help=f"Device of the runs, short for -s machine.device=DEVICE: {DEVICES}"
)
WORKERS = click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1),
    help="How many runs are carried out at the same time, short for -s machine.workers=N. By default one per GPU, or "
    "one on a processor.",
)
EXECUTOR = click.option(
    "--executor",
    type=click.Choice(["local", "ray", "slurm"]),
    help="Where runs are carried out, short for -s machine.executor=NAME: on this machine, on the nodes of a Ray "
    "cluster, or in jobs of Slurm.",
)
WHOLE_NUMBER = re.compile("is not a valid integer( range)?")
RESUME = "interrupted. Run the same command again to resume"
ENDED = {"run": RESUME, "demo": RESUME, "watch": "stopped watching; the bakeoff keeps running"}


def overrides(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command -s, and options that set one value of the config each, too, as `settings`."""

    @wraps(command)
    def call(
        *, settings: dict[str, Any], device: str | None, workers: int | None, executor: str | None, **others: Any
    ) -> None:
        machine = {"device": device, "workers": workers, "executor": executor}
        command(settings=settings | {f"machine.{name}": value for name, value in machine.items() if value}, **others)

    return SET(OVERRIDING(WORKERS(EXECUTOR(call))))


def said_of(error: click.ClickException) -> str:
    """Return in one line what is wrong with a command line, and what to try."""
    text = error.format_message()
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        text = f"{error.param.get_error_hint(error.ctx).strip(chr(39))}: {error.message}"
    text = WHOLE_NUMBER.sub("is not a whole number", " ".join(text.split()))
    context = getattr(error, "ctx", None)
    if context is None or "Try:" in text or ". Try " in text:
        return text
    return f"{text.rstrip('.')}{'' if text.endswith('?') else '.'} Try: {context.command_path} --help"


class Commands(click.Group):
    """A group whose commands print a BakeoffError, or what the system says of a file, as one line and exit with 2.

    An interrupt exits with 130. If the reader of the output has closed its pipe, the exit code is 141; if output cannot
    be written, it is 2.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        """Read the command line and run the command. The output of --help is guarded, too."""
        with streams():
            try:
                sys.exit(super().main(*args, **(options | {"standalone_mode": False})))
            except click.exceptions.NoArgsIsHelpError as error:
                error.show()
            except click.ClickException as error:
                whisper(f"bakeoff: {said_of(error)}")
            except click.Abort:  # an interrupt before a command begins
                whisper("bakeoff: interrupted")
                sys.exit(130)
            sys.exit(2)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated bakeoff ends as an interrupted one
        with streams():
            try:
                check_working_folder()
                value = super().invoke(ctx)
                warn_of_plug_ins()
                return value
            except SystemExit:  # some run failed
                warn_of_plug_ins()
                raise
            except BakeoffError as error:
                whisper(f"bakeoff: {error}")
                sys.exit(2)
            except OSError as error:
                if error.filename is None:  # of a standard stream
                    raise
                whisper(f"bakeoff: {error.filename}: {error.strerror}. Try: another place, or again")
                sys.exit(2)
            except KeyboardInterrupt:
                whisper(f"bakeoff: {ENDED.get(ctx.invoked_subcommand or '', 'interrupted')}")
                sys.exit(130)

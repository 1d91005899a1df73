"""`bakeoff serve`: answers requests with the entries of finished bakeoffs."""

import logging
import os
from pathlib import Path
from typing import Any

import click

from bakeoff.cli.group import DEVICE, TRUST
from bakeoff.cli.terminal import say, whisper


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=int, default=8000, show_default=True, help="Port to listen at; 0 is any that is free.")
@click.option(
    "--api-key-file", type=click.Path(path_type=Path),
    help="File with one key per line; requests need one of them. Needed if other machines can reach --host.",
)  # fmt: skip
@click.option(
    "--allow", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Let requests load bakeoffs in DIR while the server runs. Can be given several times.",
)  # fmt: skip
@click.option("--rows", type=int, default=16, show_default=True, help="Outputs that are written side by side.")
@click.option("--queue", type=int, default=64, show_default=True, help="Requests that may wait; more are refused.")
@click.option("--seconds", type=float, default=300, show_default=True, help="Time limit of a request.")
@click.option("--body-bytes", type=int, default=4 * 2**20, show_default=True, help="Largest body of a request.")
@click.option("--output-tokens", type=int, default=4096, show_default=True, help="Most tokens of an output.")
@click.option(
    "--drain-seconds", type=float, default=30, show_default=True,
    help="Time that running requests still have when the server is to end.",
)  # fmt: skip
@click.option("--log/--no-log", default=True, help="Write a line per request, without its texts.  [default: log]")
@DEVICE
@TRUST
def serve(folders: tuple[str, ...], log: bool, device: str, trust: bool, **settings: Any) -> None:
    """Serve finished bakeoffs over HTTP.

    Each FOLDER is the run folder of a bakeoff, or NAME=FOLDER. All must share one base, which is loaded once. Each
    entry and each prompted baseline is a model: demo/lora, demo/nearest-4, demo/base for the untouched base, and demo
    for the recommended entry. Programs for OpenAI's interface can use it, and a browser shows a page. Ctrl-C finishes
    running requests and ends the server.

    For example: bakeoff serve bakeoffs/demo
    """
    from bakeoff.api import serve as serving
    from bakeoff.driver.run_server import gpu_environment

    os.environ.update(gpu_environment(device))
    logger = logging.getLogger("bakeoff.serving")
    logger.addHandler(Whispering())
    logger.setLevel(logging.INFO if log else logging.WARNING)
    logger.propagate = False
    server = serving(*folders, device=device, trust=trust, **settings)
    whisper(f"models: {', '.join(server.models)}")
    say(server.url)
    server.run()


class Whispering(logging.Handler):
    """Writes log lines to standard error, printable."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        whisper(record.getMessage())

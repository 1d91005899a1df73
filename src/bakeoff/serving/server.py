"""A server that listens: its socket, its event loop, and its end, in which running requests are finished."""

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bakeoff.errors import SetupError
from bakeoff.serving.app import application
from bakeoff.serving.models import Models
from bakeoff.serving.opening import Opened, Say
from bakeoff.serving.service import Service
from bakeoff.serving.settings import Settings

log = logging.getLogger("bakeoff.serving")
SPARE = 100  # connections besides those of running and waiting requests; more get 503


class Quiet(H11Protocol):
    """uvicorn's reading of HTTP, without its log of requests, in which a path could have anything."""

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self.access_log = False


class Listener(uvicorn.Server):
    """uvicorn's server, which a first signal lets finish its requests, and a second one ends at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; uvicorn's own would raise it again at the end, so that a clean end looked like a kill."""
        self.force_exit = self.should_exit
        self.should_exit = True


class Server:
    """A server of finished bakeoffs. `url` is its address.

    As a context manager it runs in a thread, until the context ends; `run` lets it run here. Raises SetupError if its
    address is taken, or the bakeoffs cannot be served together.
    """

    def __init__(
        self, folders: Sequence[str | Path], settings: Settings, device: str = "auto", trust: bool = False,
        say: Say = log.warning,
    ):  # fmt: skip
        settings.keys()  # what is wrong with them is said before anything is loaded
        self.settings, self.socket = settings, listening(settings.host, settings.port)
        self.host, self.port = self.socket.getsockname()[:2]
        try:
            self.opened = Opened(folders, device, trust, say, settings.rows)
        except BaseException:
            self.socket.close()
            raise
        self.listener: Listener | None = None
        self.ready, self.thread = threading.Event(), threading.Thread(target=self.run, name="bakeoff-server")

    @property
    def url(self) -> str:
        """The server's address, for example http://127.0.0.1:8000."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def models(self) -> list[str]:
        """The names of the models that were loaded at the start: recommended entries have two."""
        return [name for name, _ in Models.of_all(self.opened.served).names()]

    def run(self) -> None:
        """Serve until a signal, or `close`; then finish the running requests."""
        try:
            asyncio.run(self.serve())
        finally:
            self.socket.close()
            self.ready.set()

    async def serve(self) -> None:
        """Serve in this event loop."""
        service = Service(self.opened, self.settings)
        settings = self.settings
        config = uvicorn.Config(
            application(service), log_config=None, lifespan="off", server_header=False, proxy_headers=False,
            ws="none", http=Quiet, limit_concurrency=settings.rows + settings.queue + SPARE, timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        )  # fmt: skip
        self.listener = Listener(config)
        service.start()
        try:
            self.ready.set()
            await self.listener.serve(sockets=[self.socket])
        finally:
            service.stop()

    def close(self) -> None:
        """Let running requests finish, then end the thread."""
        if self.listener is not None:
            self.listener.should_exit = True
        if self.thread.ident is not None:
            self.thread.join()

    def __enter__(self) -> Self:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def listening(host: str, port: int) -> socket.socket:
    """Return a socket at an address, which then nobody else can have; raise SetupError if that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SetupError(f"serve: {host}: {error.strerror or error}. Try: --host 127.0.0.1") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise SetupError(f"serve: {host}, port {port}: {error.strerror or error}. Try: another --port") from None
    return made

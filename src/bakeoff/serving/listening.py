"""A web server at an address: its socket, its event loop, and its end, in which running requests are finished."""

import asyncio
import socket
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bakeoff.errors import SetupError

KEEP_ALIVE = 30  # seconds that a connection without a request stays open


class Quiet(H11Protocol):
    """uvicorn's reading of HTTP, without its log of requests, in which a path could have anything.

    A connection that sends no whole head of a request in KEEP_ALIVE seconds is closed. uvicorn itself waits without
    end for a first one, and for one that has begun; so whoever opens connections could take all places.
    """

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self.access_log = False
        self.limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        super().connection_made(transport)
        self.wait_for_request()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(error)
        self.wait_no_longer()

    def on_response_complete(self) -> None:
        """Wait for a further request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self.wait_for_request()

    def wait_for_request(self) -> None:
        """Close the connection in KEEP_ALIVE seconds if none is answered then."""
        self.wait_no_longer()
        self.limit = self.loop.call_later(KEEP_ALIVE, self.close_without_request)

    def wait_no_longer(self) -> None:
        """Let the connection be."""
        if self.limit is not None:
            self.limit.cancel()
            self.limit = None

    def close_without_request(self) -> None:
        """Close the connection, unless a request is being answered."""
        if self.cycle is None or self.cycle.response_complete:
            self.timeout_keep_alive_handler()


class Listener(uvicorn.Server):
    """uvicorn's server, which a first signal lets finish its requests, and a second one ends at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; uvicorn's own would raise it again at the end, so that a clean end looked like a kill."""
        self.force_exit = self.should_exit
        self.should_exit = True


class WebServer:
    """A server at an address. `address` is its URL without a path.

    As a context manager it runs in a thread, until the context ends; `run` lets it run here. Raises SetupError if the
    address is taken.
    """

    def __init__(self, host: str, port: int, name: str):
        self.socket = listening(host, port)
        self.host, self.port = self.socket.getsockname()[:2]
        self.listener: Listener | None = None
        self.ready, self.thread = threading.Event(), threading.Thread(target=self.run, name=name)

    @property
    def address(self) -> str:
        """The server's address, for example http://127.0.0.1:8000."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def run(self) -> None:
        """Serve until a signal, or `close`; then finish the running requests."""
        try:
            asyncio.run(self.serve())
        finally:
            self.socket.close()
            self.ready.set()

    async def serve(self) -> None:
        """Serve in this event loop, by `listen`."""
        raise NotImplementedError

    async def listen(self, app: Any, connections: int, drain_seconds: float) -> None:
        """Let an ASGI application answer until the end; more connections get 503, running requests have so long."""
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", server_header=False, proxy_headers=False, ws="none", http=Quiet,
            limit_concurrency=connections, timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
        )  # fmt: skip
        self.listener = Listener(config)
        self.ready.set()
        await self.listener.serve(sockets=[self.socket])

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

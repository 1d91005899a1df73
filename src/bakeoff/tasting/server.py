"""A tasting that listens, on this machine alone or, with a key, on the network."""

import asyncio
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from bakeoff.serving.server import Listener, Quiet, listening
from bakeoff.serving.settings import Settings
from bakeoff.tasting.app import application
from bakeoff.tasting.session import PAIRS, Tasting

CONNECTIONS = 200


class TastingServer:
    """The page of a tasting. As a context manager it runs in a thread; `run` lets it run here, until a signal.

    `url` opens the page; where other machines can reach it, the key is in it.
    """

    def __init__(
        self, path: str | Path, entries: Sequence[str] = (), pairs: int = PAIRS, host: str = "127.0.0.1", port: int = 0
    ):
        self.tasting = Tasting(path, entries, pairs)
        self.local = Settings(host, port, api_key_file=Path("-")).local  # checks the address
        self.key = None if self.local else secrets.token_urlsafe(24)
        self.socket = listening(host, port)
        self.host, self.port = self.socket.getsockname()[:2]
        keys = [self.key.encode()] if self.key else []
        app = application(self.tasting, self.local, host, keys)
        self.listener = Listener(
            uvicorn.Config(
                app, log_config=None, lifespan="off", server_header=False, proxy_headers=False, ws="none", http=Quiet,
                limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=5,
            )
        )  # fmt: skip
        self.thread = threading.Thread(target=self.run, name="bakeoff-tasting")

    @property
    def url(self) -> str:
        """The page's address."""
        key = f"#{self.key}" if self.key else ""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/{key}"

    def run(self) -> None:
        """Serve until a signal, or `close`."""
        try:
            asyncio.run(self.listener.serve(sockets=[self.socket]))
        finally:
            self.socket.close()

    def close(self) -> None:
        """Finish what was asked, and end the thread."""
        self.listener.should_exit = True
        if self.thread.ident is not None:
            self.thread.join()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

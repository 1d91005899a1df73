"""A tasting that listens, on this machine alone or, with a key, on the network."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from bakeoff.serving.listening import WebServer
from bakeoff.serving.settings import Settings
from bakeoff.tasting.app import application
from bakeoff.tasting.session import PAIRS, Tasting

CONNECTIONS = 200
DRAIN_SECONDS = 5


class TastingServer(WebServer):
    """The page of a tasting. `url` opens it; where other machines can reach it, the key is in it."""

    def __init__(
        self, path: str | Path, entries: Sequence[str] = (), pairs: int = PAIRS, host: str = "127.0.0.1", port: int = 0
    ):
        self.tasting = Tasting(path, entries, pairs)
        self.local = Settings(host, port, api_key_file=Path("-")).local  # checks the address
        self.key = None if self.local else secrets.token_urlsafe(24)
        self.named = host
        super().__init__(host, port, "bakeoff-tasting")

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{self.address}/{f'#{self.key}' if self.key else ''}"

    async def serve(self) -> None:
        """Serve in this event loop."""
        keys = [self.key.encode()] if self.key else []
        app = application(self.tasting, self.local, self.named, keys)
        await self.listen(app, CONNECTIONS, DRAIN_SECONDS)

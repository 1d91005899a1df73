"""A server of finished bakeoffs."""

import logging
from collections.abc import Sequence
from pathlib import Path

from bakeoff.serving.app import application
from bakeoff.serving.listening import WebServer
from bakeoff.serving.models import Models
from bakeoff.serving.opening import Opened, Say
from bakeoff.serving.service import Service
from bakeoff.serving.settings import Settings

log = logging.getLogger("bakeoff.serving")
SPARE = 100  # connections besides those of running and waiting requests; more get 503


class Server(WebServer):
    """A server of finished bakeoffs. `url` is its address.

    Raises SetupError if its address is taken, or the bakeoffs cannot be served together.
    """

    def __init__(
        self, folders: Sequence[str | Path], settings: Settings, device: str = "auto", trust: bool = False,
        say: Say = log.warning,
    ):  # fmt: skip
        settings.keys()  # what is wrong with them is said before anything is loaded
        self.settings = settings
        super().__init__(settings.host, settings.port, "bakeoff-server")
        try:
            self.opened = Opened(folders, device, trust, say, settings.rows)
        except BaseException:
            self.socket.close()
            raise

    @property
    def url(self) -> str:
        """The server's address, for example http://127.0.0.1:8000."""
        return self.address

    @property
    def models(self) -> list[str]:
        """The names of the models that were loaded at the start: recommended entries have two."""
        return [name for name, _ in Models.of_all(self.opened.served).names()]

    async def serve(self) -> None:
        """Serve in this event loop."""
        from bakeoff.compute.serving.threads import core_left

        service, settings = Service(self.opened, self.settings), self.settings
        with core_left(self.opened.engine):
            service.start()
            try:
                await self.listen(
                    application(service), settings.rows + settings.queue + SPARE, drain_seconds=settings.drain_seconds
                )
            finally:
                service.stop()

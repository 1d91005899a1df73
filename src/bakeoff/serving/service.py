"""A running service: its models, its engine's thread, and what all requests share."""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bakeoff.errors import BakeoffError, SetupError, did_you_mean
from bakeoff.serving.errors import ApiError
from bakeoff.serving.metrics import Metrics
from bakeoff.serving.models import BASE, Model, Models
from bakeoff.serving.opening import Opened
from bakeoff.serving.settings import Settings
from bakeoff.serving.tokenizing import Threads
from bakeoff.serving.worker import Worker

log = logging.getLogger("bakeoff.serving")
LONGEST_WAIT = 60  # seconds that a client is told to wait, at most


class Service:
    """What the endpoints work with. Lives in one event loop, from `start` to `stop`."""

    def __init__(self, opened: Opened, settings: Settings):
        self.opened, self.settings, self.metrics = opened, settings, Metrics()
        self.models = Models.of_all(opened.served)
        self.worker = Worker(opened.engine, self.metrics.batch.observe)
        self.metrics.watch(self.worker)
        self.tokenizer, self.threads = opened.tokenizer, Threads(opened.tokenizer)
        self.changing = asyncio.Lock()  # one adapter is loaded or unloaded at a time
        self.active, self.usual_seconds = 0, 1.0
        self.count_adapters()

    def start(self) -> None:
        """Start the engine's thread."""
        self.worker.start()

    def stop(self) -> None:
        """End all threads."""
        self.worker.stop()
        self.threads.stop()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count a request; raise ApiError if as many as allowed are there already."""
        settings = self.settings
        if self.active >= settings.rows + settings.queue:
            wait = min(LONGEST_WAIT, math.ceil(self.usual_seconds))
            raise ApiError(429, f"{self.active} requests are running or waiting. Try: again", None, "queue_full", wait)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def took(self, seconds: float) -> None:
        """Note how long an answered request took."""
        self.usual_seconds += 0.1 * (seconds - self.usual_seconds)

    def count_adapters(self) -> None:
        """Note how many adapters are in memory."""
        self.metrics.adapters.set(sum(model.adapter is not None for model in self.models.loaded.values()))

    async def load(self, name: str | None, folder: str | None, entry: str | None) -> list[Model]:
        """Load an entry of a served bakeoff by its model's name, or entries of a folder; return those that are new.

        Raises ApiError if the folder is not one that was given or allowed at the start, or an entry cannot be served.
        """
        if (name is None) == (folder is None) or (name is not None and entry is not None):
            raise ApiError(400, "expected either model, or folder and, if not all entries are meant, entry")
        async with self.changing:
            try:
                return await self._load(name, Path(folder) if folder else None, entry)
            except BakeoffError as error:
                raise ApiError(400, str(error), "model" if folder is None else "folder") from None

    async def _load(self, name: str | None, folder: Path | None, entry: str | None) -> list[Model]:
        if folder is not None:
            path = self.allowed(folder)
            title = next((b.name for b in self.models.bakeoffs.values() if same(b.folder.path, path)), None)
        else:
            assert name is not None
            title, _, entry = name.partition("/")
            if not entry:
                raise ApiError(400, f"model: expected NAME/ENTRY, got '{name:.200}'. Try: folder, for all", "model")
            if title not in self.models.bakeoffs:
                known = did_you_mean(title, self.models.bakeoffs)
                raise ApiError(404, f"model: no bakeoff '{title:.200}' is served.{known}", "model", "model_not_found")
            path = self.models.bakeoffs[title].folder.path
        if entry and f"{title}/{entry}" in self.models.loaded:
            raise ApiError(409, f"model: {title}/{entry} is loaded already", "model", "already_loaded")
        bakeoff, entries = await self.threads.run(self.opened.look, path, title, slow=True)
        if title is None and bakeoff.name in self.models.bakeoffs:
            raise SetupError(
                f"{path}: a bakeoff named '{bakeoff.name}' is served from another folder. Try: a server that is "
                f"started with NAME={path}"
            )
        wanted = [e for e in entries if e.entry == entry] if entry else entries
        if entry and not wanted:
            known = did_you_mean(entry, [e.entry or BASE for e in entries])
            raise ApiError(404, f"model: {bakeoff.name} has no finished entry '{entry:.200}'.{known}", "model")
        added = await self.put([model for model in wanted if model.id not in self.models.loaded])
        self.models.open(bakeoff)
        for model in added:
            self.models.add(model)
        self.count_adapters()
        log.info("loaded: %s", ", ".join(model.id for model in added) or "nothing new")
        return added

    async def put(self, models: Sequence[Model]) -> list[Model]:
        """Put models' adapters into the engine, all or none, and return them."""
        done: list[Model] = []
        try:
            for model in models:
                if model.adapter:
                    files = await self.threads.run(self.opened.checked, model, slow=True)
                    await self.worker.ask(partial(self.opened.put, model, files))
                done.append(model)
        except Exception:
            for adapter in [model.adapter for model in done if model.adapter]:
                await self.take_out(adapter)
            raise
        return done

    async def take_out(self, adapter: str) -> None:
        """Remove an adapter from the engine."""
        await self.worker.ask(lambda engine: engine.unload(adapter))

    def allowed(self, folder: Path) -> Path:
        """Return a folder that may be loaded; raise ApiError if it is not one, without telling whether it exists."""
        served = [bakeoff.folder.path for bakeoff in self.models.bakeoffs.values()]
        if "\0" in str(folder):
            raise ApiError(403, "folder: is no path", "folder")
        place = folder.resolve()
        roots = [Path(path).resolve() for path in self.settings.allow]
        if any(same(path, folder) for path in served) or any(place.is_relative_to(root) for root in roots):
            return place
        raise ApiError(403, "folder: is not served, and is in no folder that was given with --allow", "folder")

    async def unload(self, name: str) -> None:
        """Remove an adapter from memory once its running requests have ended; raise ApiError if there is none."""
        async with self.changing:
            model = self.models.loaded.get(name)
            if model is None or model.adapter is None:
                adapters = [m.id for m in self.models.loaded.values() if m.adapter is not None]
                known = did_you_mean(name, adapters)
                raise ApiError(404, f"model: no adapter '{name:.200}' is loaded.{known}", "model", "model_not_found")
            self.models.remove(model)
            await self.take_out(model.adapter)
            self.count_adapters()
            log.info("unloaded: %s", name)


def same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one folder."""
    return one.resolve() == other.resolve()

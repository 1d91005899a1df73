"""The application: its routes, and the answers that are not outputs."""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bakeoff.serving.errors import FAULT, ApiError
from bakeoff.serving.generating import Generating
from bakeoff.serving.guard import Guard
from bakeoff.serving.requests import Chat, Completion, Loading, body_of
from bakeoff.serving.service import Service
from bakeoff.serving.static_page import StaticPage


def application(service: Service) -> ASGIApp:
    """Return the guarded application of a service."""
    pages = Answers(service)
    routes = [
        *StaticPage("bakeoff.serving").routes,
        Route("/health", pages.health), Route("/metrics", pages.metrics),
        Route("/v1/models", pages.models), Route("/v1/models/{name:path}", pages.model),
        Route("/v1/completions", Generating(service, Completion), methods=["POST"]),
        Route("/v1/chat/completions", Generating(service, Chat), methods=["POST"]),
        Route("/v1/adapters", pages.adapters, methods=["GET"]),
        Route("/v1/adapters", pages.load, methods=["POST"]),
        Route("/v1/adapters/{name:path}", pages.unload, methods=["DELETE"]),
    ]  # fmt: skip
    app = Starlette(routes=routes, exception_handlers={HTTPException: unknown, ApiError: refused, Exception: failed})
    settings = service.settings
    return Guard(app, settings.local, settings.host, settings.keys())


def unknown(_: Request, error: Exception) -> Response:
    """Return what a request is told whose path or method nothing answers."""
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, f"{error.detail}. See docs/serve.md for the paths and methods of this server")
    return JSONResponse(told.body, told.status, {**(error.headers or {})})


def refused(_: Request, error: Exception) -> Response:
    """Return what a request is told that gets nothing."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


def failed(_: Request, __: Exception) -> Response:
    """Return what a request is told where the server itself is at fault; the guard logs it."""
    return JSONResponse(FAULT.body, FAULT.status)


class Answers:
    """The endpoints that write no output."""

    def __init__(self, service: Service):
        self.service = service

    async def health(self, _: Request) -> Response:
        """Say whether outputs can be written."""
        well = self.service.worker.well
        return JSONResponse({"status": "ok" if well else "failed"}, 200 if well else 503)

    async def metrics(self, _: Request) -> Response:
        """Return the figures for Prometheus."""
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        """List the models."""
        rows = [model.row(name) for name, model in self.service.models.names()]
        return JSONResponse({"object": "list", "data": rows})

    async def model(self, request: Request) -> Response:
        """Return one model."""
        name = request.path_params["name"]
        return JSONResponse(self.service.models.of(name).row(name))

    async def adapters(self, _: Request) -> Response:
        """List the adapters in memory."""
        rows = [m.row(m.id) for m in self.service.models.loaded.values() if m.adapter is not None]
        return JSONResponse({"object": "list", "data": rows})

    async def load(self, request: Request) -> Response:
        """Load an adapter, or those of a folder."""
        service = self.service
        asked = await body_of(Loading, request, service.settings.body_bytes, service.settings.seconds)
        added = await asyncio.shield(service.load(asked.model, asked.folder, asked.entry))
        return JSONResponse({"object": "list", "data": [model.row(model.id) for model in added]})

    async def unload(self, request: Request) -> Response:
        """Unload an adapter."""
        name: Any = request.path_params["name"]
        await asyncio.shield(self.service.unload(name))
        return JSONResponse({"id": name, "object": "model", "deleted": True})

"""The endpoints that write outputs: /v1/completions and /v1/chat/completions, whole or as a stream."""

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from bakeoff.errors import BakeoffError
from bakeoff.serving.errors import FAULT, ApiError
from bakeoff.serving.metrics import UNKNOWN
from bakeoff.serving.prompting import prompt_of
from bakeoff.serving.requests import Chat, Completion, body_of, of_one_name
from bakeoff.serving.service import Service
from bakeoff.serving.shapes import Shape
from bakeoff.serving.text import Text
from bakeoff.serving.tokenizing import LONG
from bakeoff.serving.writing import Writing

T = TypeVar("T")
GONE = 499  # the status that is counted where the client did not wait; nobody gets it
LAST_WORD = 5.0  # seconds in which a client that does not read may still be told that its time is over
log = logging.getLogger("bakeoff.serving")


class Gone(Exception):  # noqa: N818 - it is no error
    """The client did not wait for its answer."""


class Generating:
    """An endpoint; `kind` is the shape of its bodies."""

    def __init__(self, service: Service, kind: type[Completion] | type[Chat]):
        self.service, self.kind = service, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raise ApiError where it gets no output, and nothing was sent of one."""
        call = Call(self.service, self.kind, send)
        try:
            await call.read(Request(scope, receive))
            with self.service.place():
                await unless_gone(receive, call.answer())
        except ApiError as error:
            call.status = error.status
            raise
        except (Gone, asyncio.CancelledError) as error:
            call.status = GONE
            if not isinstance(error, Gone):
                raise
        except BaseException:
            call.status = 500
            raise
        finally:
            call.note(scope["path"])


class Call:
    """One request and its answer."""

    def __init__(self, service: Service, kind: type[Completion] | type[Chat], send: Send):
        self.service, self.kind, self.send = service, kind, send
        self.began, self.status = time.monotonic(), 200
        self.name = UNKNOWN  # of the model, as it is counted
        self.writing: Writing | None = None

    asked: Completion | Chat

    @property
    def left(self) -> float:
        """The seconds that are left of those that a request may take."""
        return self.began + self.service.settings.seconds - time.monotonic()

    async def read(self, request: Request) -> None:
        """Read the body; raise ApiError if it is not one, or did not come in time."""
        most = self.service.settings.body_bytes
        self.asked = await body_of(self.kind, request, most, self.left)
        if isinstance(self.asked, Chat):
            of_one_name(self.asked)
        if self.asked.stream_options and not self.asked.stream:
            raise ApiError(400, "stream_options: only with stream: true. Leave it out", "stream_options")

    async def answer(self) -> None:
        """Write the output and send it."""
        text = ""
        try:
            async with asyncio.timeout(self.left):
                writing = await self.begin()
                if not self.asked.stream:
                    async with aclosing(writing.pieces()) as pieces:
                        text = "".join([piece async for piece in pieces])
        except TimeoutError:
            raise self.late() from None
        shape = Shape(isinstance(self.asked, Chat), self.asked.model)
        if self.asked.stream:
            await self.stream(writing, shape)
            return
        await self.respond(JSONResponse(shape.whole(text, writing.finish, writing.usage)))

    async def begin(self) -> Writing:
        """Hand the request to the engine; raise ApiError if it cannot be taken."""
        service, asked = self.service, self.asked
        model = service.models.of(asked.model)
        self.name = model.id
        given = prompt_of, model, asked, service.settings.output_tokens
        prompt = await service.threads.run(*given, slow=asked.characters > LONG)
        from bakeoff.compute.serving.request import Request as Row

        row = Row(
            prompt.ids, prompt.most, model.bakeoff.ends, asked.temperature or 0.0,
            1.0 if asked.top_p is None else asked.top_p, asked.seed,
        )  # fmt: skip
        text = Text(model.prompts, service.tokenizer, asked.stops)
        try:
            output = await service.worker.submit(model.adapter, row)
        except BakeoffError as error:
            if service.models.loaded.get(model.id) is not model:  # it was unloaded meanwhile
                raise ApiError(404, f"model: {model.id} is not loaded any more", "model", "model_not_found") from None
            raise ApiError(400, str(error)) from None
        self.writing = Writing(service, model, prompt, output, text, self.began)
        return self.writing

    async def stream(self, writing: Writing, shape: Shape) -> None:
        """Send the output while it is written, as server-sent events; an error after the first is one of them."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"),
                   (b"x-accel-buffering", b"no")]  # fmt: skip
        try:
            async with asyncio.timeout(self.left):
                await self.send({"type": "http.response.start", "status": 200, "headers": headers})
                if isinstance(self.asked, Chat):
                    await self.event(shape.opening())
                async with aclosing(writing.pieces()) as pieces:
                    async for piece in pieces:
                        await self.event(shape.piece(piece))
                await self.event(shape.last(writing.finish))
                if self.asked.stream_options and self.asked.stream_options.include_usage:
                    await self.event(shape.usage(writing.usage))
                await self.part(b"data: [DONE]\n\n")
                await self.part(b"", more=False)
        except (TimeoutError, ApiError, ValueError) as error:
            told = error if isinstance(error, ApiError) else self.late() if isinstance(error, TimeoutError) else FAULT
            self.status = told.status
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD):
                    await self.event(told.body)
                    await self.part(b"", more=False)

    async def event(self, row: dict[str, Any]) -> None:
        """Send one event."""
        await self.part(b"data: " + json.dumps(row, ensure_ascii=False).encode() + b"\n\n")

    async def part(self, content: bytes, more: bool = True) -> None:
        """Send a part of the body."""
        await self.send({"type": "http.response.body", "body": content, "more_body": more})

    async def respond(self, response: JSONResponse) -> None:
        """Send a whole answer."""
        await self.send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await self.part(bytes(response.body), more=False)

    def late(self) -> ApiError:
        """Return what a request is told that takes too long."""
        seconds = self.service.settings.seconds
        return ApiError(
            504, f"the request took more than {seconds:g} seconds. Try: a smaller max_tokens", code="timeout"
        )

    def note(self, path: str) -> None:
        """Count the request, and log it without its texts."""
        metrics, seconds = self.service.metrics, time.monotonic() - self.began
        metrics.requests.labels(self.name, str(self.status)).inc()
        read, wrote = (len(self.writing.prompt.ids), self.writing.tokens) if self.writing else (0, 0)
        if self.writing:
            metrics.prompt_tokens.labels(self.name).inc(read)
            metrics.output_tokens.labels(self.name).inc(wrote)
        if self.status == 200:
            metrics.whole.labels(self.name).observe(seconds)
            self.service.took(seconds)
        log.info("%s %d %s %d+%d tokens %.3f s", path, self.status, self.name, read, wrote, seconds)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; raise Gone, and end the work, once the client has closed its connection."""
    task, gone = asyncio.create_task(work), asyncio.create_task(departure(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def departure(receive: Receive) -> None:
    """Return once the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass

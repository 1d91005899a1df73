"""The page of a tasting, and the three requests that it makes."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bakeoff.config.sections import encodable
from bakeoff.errors import SetupError, printable
from bakeoff.serving.guard import Guard
from bakeoff.serving.static_page import StaticPage
from bakeoff.store.votes import Choice
from bakeoff.tasting.session import Tasting

LARGEST = 20_000  # bytes of a vote with its note
KEEP = "\n\t"


class Asked(BaseModel):
    """What the page sends: who tastes, and on a vote what was chosen. `number` asks for one comparison again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    taster: str = Field(min_length=1, max_length=80)
    number: int | None = Field(None, ge=0)
    choice: Literal["left", "right", "tie", "both bad"] | None = None
    note: str = Field("", max_length=2000)

    @field_validator("taster", "note")
    @classmethod
    def _encodable(cls, text: str) -> str:
        if not encodable(text):
            raise ValueError("half a character")
        return text


def application(tasting: Tasting, local: bool, host: str, keys: list[bytes]) -> ASGIApp:
    """Return the guarded application of a tasting."""
    answers = Answers(tasting)
    routes = StaticPage("bakeoff.tasting").routes
    routes += [Route("/show", answers.show, methods=["POST"]), Route("/vote", answers.vote, methods=["POST"])]
    return Guard(Starlette(routes=routes), local, host, keys)


class Answers:
    """The next comparison, and a vote."""

    def __init__(self, tasting: Tasting):
        self.tasting = tasting

    async def show(self, request: Request) -> Response:
        """Return one comparison without names: the one asked for, or the taster's next; null where all are done."""
        asked = await self.asked(request)
        if isinstance(asked, Response):
            return asked
        return self.shown(asked.taster, asked.number)

    async def vote(self, request: Request) -> Response:
        """Keep a vote and return the next comparison."""
        asked = await self.asked(request)
        if isinstance(asked, Response):
            return asked
        if asked.number is None or asked.choice is None:
            return told(422, "number, choice: missing")
        sides: tuple[Choice, Choice] = ("first", "second")
        left = self.tasting.left(asked.taster, asked.number)
        places: dict[str, Choice] = {"left": sides[left], "right": sides[1 - left]}
        choice: Choice = places.get(asked.choice) or ("tie" if asked.choice == "tie" else "both bad")
        try:
            self.tasting.vote(asked.taster, asked.number, choice, asked.note)
        except (SetupError, OSError) as error:
            return told(409 if isinstance(error, SetupError) else 507, f"the vote was not kept: {error}")
        return self.shown(asked.taster, None)

    async def asked(self, request: Request) -> Asked | Response:
        """Return what a request says, or the answer that says what is wrong with it."""
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > LARGEST:
                return told(413, "too long")
        try:
            asked = Asked.model_validate(json.loads(content))
        except (ValidationError, ValueError, RecursionError):
            return told(422, "expected taster, and on a vote number, choice and note")
        if asked.number is not None and asked.number >= len(self.tasting.items):
            return told(404, "number: no such comparison")
        return asked

    def shown(self, taster: str, number: int | None) -> Response:
        """Return a comparison; or why it cannot be shown: equal outputs on the way to the next one are kept as ties."""
        try:
            return JSONResponse(self.comparison(taster, number))
        except (SetupError, OSError) as error:
            return told(409 if isinstance(error, SetupError) else 507, f"the next comparison is not known: {error}")

    def comparison(self, taster: str, number: int | None) -> dict[str, Any]:
        """Return what the page shows."""
        tasting = self.tasting
        number = tasting.next(taster) if number is None else number
        facts: dict[str, Any] = {"done": tasting.done(taster), "of": len(tasting.asked), "number": number}
        if number is None:
            return facts
        item, left = tasting.items[number], tasting.left(taster, number)
        texts = [printable(item.texts[side], KEEP) for side in (left, 1 - left)]
        return facts | {"document": printable(item.document, KEEP), "left": texts[0], "right": texts[1]}


def told(status: int, message: str) -> Response:
    """Return an answer that says what is wrong."""
    return JSONResponse({"error": message}, status)

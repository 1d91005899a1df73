"""Requests' bodies: read within limits, as strict JSON, into what an output needs. What is not supported is refused."""

import asyncio
import json
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from bakeoff.errors import did_you_mean, kind_of, plain
from bakeoff.serving.errors import ApiError

# Fields of OpenAI's interface that have no effect at these values, which some clients always send. At others they are
# refused. null is such a value for all of them.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "logprobs": (False,), "presence_penalty": (0,),
    "frequency_penalty": (0,), "logit_bias": ({},), "suffix": (), "user": (), "top_logprobs": (), "tools": ([],),
    "tool_choice": ("none",), "parallel_tool_calls": (), "functions": (), "function_call": ("none",),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (), "store": (False,),
    "metadata": ({},), "reasoning_effort": (), "service_tier": ("auto", "default"), "verbosity": (),
    "web_search_options": (), "safety_identifier": (), "prompt_cache_key": (), "prompt_cache_retention": (),
}  # fmt: skip
BODY_SECONDS = 30.0  # in which a body must have come
DEEPEST = 64  # lists and objects within each other in a body
Body = TypeVar("Body", bound=BaseModel)
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class StreamOptions(BaseModel):
    """What a stream also contains."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of request have. Fields that OpenAI's interface does not have: `raw`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=500)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    raw: bool | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end the output."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def most(self) -> int | None:
        """The most tokens of the output, if the request says it."""
        return self.max_tokens


class Completion(Asked):
    """A body of /v1/completions. `columns` are the other columns of the document's row that the template uses."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    columns: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The document, or the prompt if it is `raw`."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def characters(self) -> int:
        """How many characters its texts have."""
        return len(self.text) + sum(len(str(value)) for value in (self.columns or {}).values())


class Chat(Asked):
    """A body of /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def most(self) -> int | None:
        """The most tokens of the output, if the request says it."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def characters(self) -> int:
        """How many characters its texts have."""
        return sum(len(str(value)) for message in self.messages for value in message.values())


class Loading(BaseModel):
    """A body of POST /v1/adapters: a model's name, or a folder with one of its entries, or all."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    folder: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    entry: Annotated[str, Field(min_length=1, max_length=500)] | None = None


async def body_of(kind: type[Body], request: Request, most: int, seconds: float) -> Body:
    """Return a request's body; raise ApiError if it is not one, is too large, or has not come in so many seconds.

    It must have come in BODY_SECONDS, too.
    """
    try:
        async with asyncio.timeout(min(seconds, BODY_SECONDS)):
            return parsed(kind, await json_body(request, most))
    except TimeoutError:
        raise ApiError(408, "the body did not come in time", code="timeout") from None


async def json_body(request: Request, most: int) -> dict[str, Any]:
    """Return a request's JSON object; raise ApiError if it is larger than `most` bytes, or not an object of JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of another site can send any other without asking
        raise ApiError(415, f"Content-Type: expected application/json, got {kind[:80] or 'nothing'}")
    too_large = ApiError(413, f"the body is larger than {most:,} bytes. Try: a shorter document", code="body_too_large")
    length = request.headers.get("content-length", "")
    if (length.isdecimal() and len(length) > 18) or int(length or 0) > most:
        raise too_large
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise too_large
    try:
        found = json.loads(content.decode(), parse_constant=no_number, object_pairs_hook=single)
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        short = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ApiError(400, f"the body is not JSON ({short})") from None
    if not isinstance(found, dict):
        raise ApiError(400, f"the body: expected a JSON object, got {kind_of(found)}")
    check_depth(found)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body contains half a surrogate pair, which is not text. Fix its \\u escapes") from None
    return found


def no_number(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} is not a number of JSON")


def single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys occur once; raise ValueError if one occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in an object")
    return found


def check_depth(value: Any) -> None:
    """Raise ApiError if a JSON value is nested more than DEEPEST times: what reads it later may call itself."""
    level = [value]
    for _ in range(DEEPEST):
        rows = [part.values() if isinstance(part, dict) else part for part in level]
        level = [part for row in rows for part in row if isinstance(part, dict | list)]
        if not level:
            return
    raise ApiError(400, f"the body is nested more than {DEEPEST} times. Try: texts instead of lists in lists")


def parsed(kind: type[Body], body: dict[str, Any]) -> Body:
    """Return a body as a model; raise ApiError, which names the field, if it is not one."""
    given = {}
    for name, value in body.items():
        if name in kind.model_fields:
            given[name] = value
        elif name not in NEUTRAL:
            raise ApiError(400, f"unknown field '{name:.80}'.{did_you_mean(name, kind.model_fields)}", name[:80])
        elif value is not None and not any(
            value == v and isinstance(value, bool) == isinstance(v, bool) for v in NEUTRAL[name]
        ):
            allowed = "".join(f" Allowed: {json.dumps(v)}." for v in NEUTRAL[name][:1])
            raise ApiError(400, f"{name}: is not supported.{allowed} Or leave it out", name, "unsupported_field")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = error.errors()
        first = next((fault for fault in faults if not fault["type"].endswith("_type")), faults[0])  # of a union's two
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in kind.model_fields)
        if first["type"] == "missing":
            raise ApiError(400, f"{place}: is missing", place) from None
        raise ApiError(400, f"{place}: {plain(first)}", place or None) from None


def of_one_name(asked: Chat) -> None:
    """Raise ApiError if a chat's body has both names of `max_tokens`."""
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens: only one of them can be given", "max_tokens")

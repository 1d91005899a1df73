"""What every request passes first: whether it may come at all. And what no answer of the server leaves out."""

import hashlib
import hmac
import ipaddress
import logging
import traceback
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bakeoff.serving.errors import FAULT, ApiError

OPEN = ("/", "/page.css", "/page.js", "/health")  # without a key: nothing in them depends on a bakeoff
HEADERS = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}  # fmt: skip
log = logging.getLogger("bakeoff.serving")


class Guard:
    """Refuses requests by another name of this machine, of another site's page, or without a key.

    `local`: the server is reached by this machine alone, so that a request must name this machine: else a page of
    another site, whose name leads to 127.0.0.1, could read outputs. With an address that others reach there are `keys`.
    """

    def __init__(self, app: ASGIApp, local: bool, host: str, keys: Sequence[bytes]):
        self.app, self.local, self.host = app, local, host.lower()
        self.hashes = [hashlib.sha256(key).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(raw=message.setdefault("headers", [])).update(HEADERS)
            await send(message)

        try:
            self.check(Headers(scope=scope), scope["path"])
            await self.app(scope, receive, guarded)
        except ApiError as error:
            if not started:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, guarded)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]  # without the error's text, which could have a prompt
            log.error("%s: %s in %s:%d", scope["path"], type(error).__name__, place.filename, place.lineno or 0)
            if not started:
                await JSONResponse(FAULT.body, FAULT.status)(scope, receive, guarded)

    def check(self, headers: Headers, path: str) -> None:
        """Raise ApiError if a request may not come."""
        host = name_of(headers.get("host", ""))
        if self.local and not (is_loopback(host) or host == self.host):
            raise ApiError(403, "Host: is not this machine. Try: http://127.0.0.1, or --api-key-file with --host")
        origin = headers.get("origin")
        if origin is not None and place_of(origin) != headers.get("host", ""):
            raise ApiError(403, "Origin: pages of other sites may not use this server")
        if self.hashes and path not in OPEN:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            given = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
            found = [hmac.compare_digest(given, known) for known in self.hashes]
            if scheme.lower() != "bearer" or not any(found):
                raise ApiError(401, "Authorization: expected Bearer and a key of this server", code="invalid_api_key")


def name_of(place: str) -> str:
    """Return the host's name without its port; an empty text if there is none."""
    try:
        return (urlsplit(f"//{place}").hostname or "").lower()
    except ValueError:
        return ""


def place_of(url: str) -> str:
    """Return the host with its port in a URL; an empty text if there is none."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether a name is one of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

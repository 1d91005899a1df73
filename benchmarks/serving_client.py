"""A small client of /v1/completions, which notes when the first words of a stream come."""

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Reply:
    """An output: its text, its tokens, and the seconds to its first words and to its end."""

    text: str
    tokens: int
    first: float
    seconds: float


class Client:
    """Sends requests to a server; each thread has a connection of its own."""

    def __init__(self, url: str):
        place = urlsplit(url)
        self.host, self.port = place.hostname, place.port
        self.own = threading.local()

    @property
    def connection(self) -> http.client.HTTPConnection:
        """This thread's connection."""
        if not hasattr(self.own, "connection"):
            self.own.connection = http.client.HTTPConnection(str(self.host), self.port, timeout=600)
        return self.own.connection

    def begin(self, method: str, path: str, body: Any = None) -> None:
        """Send a request; its response is to be taken from the connection."""
        content = None if body is None else json.dumps(body).encode()
        self.connection.request(method, path, content, {"content-type": "application/json"})

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and JSON of a request."""
        self.begin(method, path, body)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def text(self, path: str) -> str:
        """Return the text at a path."""
        self.begin("GET", path)
        return self.connection.getresponse().read().decode()

    def complete(self, **fields: Any) -> Reply:
        """Return the output of a streamed completion; raise RuntimeError where it is refused, or not whole."""
        began = time.perf_counter()
        body = fields | {"stream": True, "stream_options": {"include_usage": True}}
        self.begin("POST", "/v1/completions", body)
        response = self.connection.getresponse()
        pieces, first, tokens, ended = [], None, 0, False
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read()[:200]!r}")
        for line in response:
            if first is None:
                first = time.perf_counter() - began
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                pieces += [choice["text"] for choice in event["choices"]]
            ended = ended or line.startswith(b"data: [DONE]")
        response.read()  # ends it: reading every line of a body of known length does not
        if not ended:
            raise RuntimeError("the stream ended early")
        return Reply("".join(pieces), tokens, first or 0.0, time.perf_counter() - began)

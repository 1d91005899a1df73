"""What tests of the server share: a server of the tiny bakeoff, an engine that waits, and plain requests."""

import contextlib
import http.client
import json
import threading
import time

import bakeoff

DOCUMENT = "ba be bi bo bu da de di"
LONG = "ba be bi bo bu " * 40


@contextlib.contextmanager
def served(*folders, **settings):
    """Yield a running server at a free port."""
    with bakeoff.serve(*folders, port=0, **settings) as server:
        yield server


def call(server, method, path, body=None, headers=(), **how):
    """Return status, headers and JSON (or text) of one request by plain HTTP."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    own = {"content-type": "application/json", **dict(headers)} if content is not None else dict(headers)
    with contextlib.closing(connection):
        connection.request(method, path, content, own, **how)
        answer = connection.getresponse()
        text = answer.read().decode()
        kind = answer.headers.get("content-type", "")
        return answer.status, answer.headers, json.loads(text) if kind == "application/json" else text


def complete(server, **fields):
    """Return status and JSON of a completion."""
    status, _, found = call(server, "POST", "/v1/completions", {"model": "shared/lora", "prompt": DOCUMENT} | fields)
    return status, found


def until(holds, what="it"):
    """Wait until something holds; fail after ten seconds."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.005)


class Gate:
    """Lets an engine's steps do nothing until it is open, but for as many as `steps` is released for."""

    def __init__(self, engine):
        self.engine, self.step, self.open = engine, engine.step, threading.Event()
        self.steps = threading.Semaphore(0)

    def __enter__(self):
        self.engine.step = self.wait
        return self

    def wait(self):
        return self.step() if self.open.wait(0.002) or self.steps.acquire(blocking=False) else []

    def __exit__(self, *_):
        self.open.set()
        self.engine.step = self.step

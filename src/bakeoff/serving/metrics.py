"""What a server counts, as Prometheus reads it."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bakeoff.serving.worker import Worker

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
UNKNOWN = "unknown"  # in place of a model's name that a client made up


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("bakeoff_requests", "Requests by model and HTTP status", ["model", "status"], **own)
        self.prompt_tokens = Counter("bakeoff_prompt_tokens", "Tokens of prompts", ["model"], **own)
        self.output_tokens = Counter("bakeoff_output_tokens", "Tokens of outputs", ["model"], **own)
        self.first = Histogram(
            "bakeoff_first_token_seconds",
            "Seconds from a request to its first token",
            ["model"],
            buckets=SECONDS,
            **own,
        )
        self.whole = Histogram("bakeoff_request_seconds", "Seconds of a request", ["model"], buckets=SECONDS, **own)
        self.batch = Histogram("bakeoff_batch_rows", "Rows in a step of the engine", buckets=ROWS, **own)
        self.running = Gauge("bakeoff_running_rows", "Rows that are being written", **own)
        self.queue = Gauge("bakeoff_queue_rows", "Rows that wait for a place", **own)
        self.adapters = Gauge("bakeoff_adapters", "Adapters in memory", **own)

    def watch(self, worker: Worker) -> None:
        """Read rows from the worker whenever the figures are asked for."""
        self.running.set_function(lambda: worker.running)
        self.queue.set_function(lambda: worker.waiting)

    def text(self) -> bytes:
        """Return all figures as text."""
        return generate_latest(self.registry)

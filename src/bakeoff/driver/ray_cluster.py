"""The connection to a Ray cluster, and whether its head still answers."""

import logging
import os
import socket
import threading
import time
from typing import Any

from bakeoff.config.machine import MachineConfig
from bakeoff.errors import SetupError

ANSWER_SECONDS = 10.0  # that a cluster may take to take up a connection
LOOK_SECONDS = 5.0
RAYS_OWN_SECONDS = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 - its name
PATIENCE_SECONDS = 0.75 * RAYS_OWN_SECONDS


def connected(settings: MachineConfig) -> tuple[Any, bool]:
    """Return Ray, connected to the cluster of a config, and whether it was not before.

    Raises SetupError if it cannot be connected.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send statistics to its makers
        import ray
    except ImportError:
        raise SetupError("machine.executor: ray is not installed. Try: pip install 'bakeoff[ray]'") from None
    if ray.is_initialized():
        return ray, False
    address = settings.address or os.environ.get("RAY_ADDRESS")
    try:
        if ":" in (address or "").rpartition("://")[2]:  # Ray itself tries for minutes
            socket.create_connection(place_of(address or ""), timeout=ANSWER_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no error of its own for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"machine.address: {address or 'the cluster of this machine'} does not answer ({reason:.200}). Try: ray "
            "status, ray start --head, or RAY_AUTH_MODE=token if it wants a token"
        ) from None
    return ray, True


def head_address(ray: Any, settings: MachineConfig) -> str:
    """Return where the head of a connected cluster listens; for Ray's client it is where the client is connected."""
    address = settings.address or os.environ.get("RAY_ADDRESS") or ""
    return address if address.startswith("ray://") else ray.get_runtime_context().gcs_address


def place_of(address: str) -> tuple[str, int]:
    """Return host and port of an address, whose host may be one of IPv6 in brackets."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


class Head:
    """Looks at the head of a cluster, in a thread. A pause of this process does not count as silence.

    A minute after it has gone silent, Ray ends its nodes and the driver, in the middle of whatever they do. So we look
    ourselves, to end before that, with a reason.
    """

    def __init__(self, address: str):
        self.address, self.place = address, place_of(address)
        self.silent = 0.0  # seconds
        self.closed = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Look every LOOK_SECONDS until this is closed."""
        while not self.closed.is_set():
            begun = time.monotonic()
            self.silent = 0.0 if self.answers() else self.silent + LOOK_SECONDS
            self.closed.wait(max(0.0, LOOK_SECONDS - (time.monotonic() - begun)))

    def answers(self) -> bool:
        """Return whether it takes a connection."""
        try:
            socket.create_connection(self.place, timeout=LOOK_SECONDS).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Look no more."""
        self.closed.set()

    @property
    def gone(self) -> bool:
        """Whether it was silent for so long that Ray is about to give up, too."""
        return self.silent >= PATIENCE_SECONDS

"""What whoever starts a server decides: its address, its key, its limits."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bakeoff.errors import SetupError

KEY_CHARACTERS = 16  # at least: what is shorter can be tried out
KEY_BYTES = 2**20  # of a file of keys; a device has no end


@dataclass(frozen=True)
class Settings:
    """Address and limits of a server. Raises SetupError if they cannot be, or are not safe."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    api_key_file: str | Path | None = None  # one key per line; needed if others than this machine can reach `host`
    allow: Sequence[str | Path] = ()  # folders whose bakeoffs may be loaded while the server runs
    rows: int = 16  # outputs that are written side by side
    queue: int = 64  # requests that wait for a place; more get 429
    seconds: float = 300.0  # that a request may take, with waiting
    body_bytes: int = 4 * 2**20
    output_tokens: int = 4096  # that one request may ask for
    drain_seconds: float = 30.0  # that running requests may still take once the server is to end

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("queue", 0), ("body_bytes", 1), ("output_tokens", 1), ("port", 0)):
            if getattr(self, name) < least:
                raise SetupError(f"serve: {name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("seconds", "drain_seconds"):
            if not 0 < getattr(self, name) < 1e7:
                raise SetupError(f"serve: {name}: expected seconds above 0, got {getattr(self, name)}")
        if isinstance(self.allow, str | Path):  # each letter of a text would be a folder
            raise SetupError(f"serve: allow: expected a list of folders, got one. Try: [{str(self.allow)!r}]")
        if self.port > 65535:
            raise SetupError(f"serve: port: expected at most 65535, got {self.port}")
        if self.api_key_file is None and not self.local:
            raise SetupError(
                f"serve: {self.host}: other machines can reach this address, so a key is needed. Try: --api-key-file "
                "FILE, or --host 127.0.0.1"
            )

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def keys(self) -> list[bytes]:
        """Return the keys in `api_key_file`; none without such a file. Raises SetupError if it has no usable keys."""
        if self.api_key_file is None:
            return []
        try:
            with Path(self.api_key_file).open("rb") as file:
                content = file.read(KEY_BYTES + 1)
        except OSError as error:
            raise SetupError(f"{self.api_key_file}: {error.strerror}. Try: a file with one key per line") from None
        keys = [line.strip() for line in content.split(b"\n") if line.strip()]
        if not keys or min(map(len, keys)) < KEY_CHARACTERS or len(content) > KEY_BYTES:
            raise SetupError(
                f"{self.api_key_file}: expected one key per line, of at least {KEY_CHARACTERS} characters each. "
                "Try: openssl rand -hex 32 > FILE"
            )
        return keys

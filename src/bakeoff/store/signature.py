"""Signatures that recognise what this user wrote. Their key never leaves the user's home."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bakeoff.store.paths import at_home

SIGNATURE = "signature"
BYTES = 32  # of a key


def signature(content: bytes) -> str | None:
    """Return this user's signature of a file's content, or None if the user has no home to keep a key in."""
    with suppress(OSError):
        return hmac.new(key(), content, hashlib.sha256).hexdigest()
    return None


def signed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with its signature in it."""
    return {SIGNATURE: signature(canonical(document)), **document}


def unsigned(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document that this user signed; raise ValueError if somebody else signed it, or it has changed."""
    content = {key: value for key, value in document.items() if key != SIGNATURE}
    if not is_signed(canonical(content), document.get(SIGNATURE)):
        raise ValueError("not signed on this machine")
    return content


def is_signed(content: bytes, said: Any) -> bool:
    """Return whether `said` is this user's signature of the content."""
    ours = signature(content) if isinstance(said, str) else None
    return ours is not None and hmac.compare_digest(ascii(said), ascii(ours))


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return a JSON document as the bytes that are signed. They differ from the bytes of any config."""
    return b"\0" + json.dumps(document, sort_keys=True).encode()


def state_folder() -> Path:
    """Return the folder of what this user's bakeoffs remember; raise OSError if there is none.

    A relative path would be in the working folder, where somebody else may have put something.
    """
    folder = Path(os.environ.get("XDG_STATE_HOME") or at_home("~/.local/state")) / "bakeoff"
    if not folder.is_absolute():
        raise FileNotFoundError(folder)
    return folder


def key() -> bytes:
    """Return this user's key, which is made at the first call; raise OSError if there is no place for it."""
    file = state_folder() / "key"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".key.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
                made.write(secrets.token_bytes(BYTES))
                made.flush()
                os.fsync(made.fileno())
            with suppress(FileExistsError):
                os.link(temporary, file)  # the first of several processes makes it
        finally:
            temporary.unlink(missing_ok=True)
    key = file.read_bytes()
    if len(key) != BYTES:  # with no key, anybody could sign
        raise FileNotFoundError(file)
    return key

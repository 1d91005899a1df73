"""What a run folder asks for beyond being read: given to one's own, asked of the person for one from elsewhere.

A config that a person names is theirs. A run folder's own config is, where this user ran the bakeoff: then the folder's
tag holds a signature of the config by a key that never leaves this user's home.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from bakeoff.config import Config, is_function
from bakeoff.errors import SetupError
from bakeoff.integrity import read_mapping, read_whole
from bakeoff.reading import at_home
from bakeoff.records import Folder


def signature(config: bytes) -> str | None:
    """Return this user's signature of a run folder's config; None where the user has no home to keep a key in."""
    with suppress(OSError):
        return hmac.new(key(), config, hashlib.sha256).hexdigest()
    return None


def key() -> bytes:
    """Return this user's key, made when it is first asked for."""
    file = Path(os.environ.get("XDG_STATE_HOME") or at_home("~/.local/state")) / "bakeoff/key"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".key.{os.getpid()}.tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
            made.write(secrets.token_bytes(32))
        try:
            os.link(temporary, file)  # the first of several processes makes it
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return file.read_bytes()


def is_own(folder: Folder) -> bool:
    """Return whether this user made a run folder's config, or trusted it before, and nobody has changed it since."""
    said = read_mapping(folder.tag_file).get("signature")
    try:
        ours = signature(read_whole(folder.config_file))
    except OSError:
        return False
    return isinstance(said, str) and ours is not None and hmac.compare_digest(said.encode(), ours.encode())


def model_wishes(config: Config) -> list[str]:
    """Return what a config asks for its model: that its code is run, or that a folder of its choice is opened."""
    found = [f"the code of the model {config.trust_remote_code}"] if config.trust_remote_code else []
    return found + ([f"the model in {config.model}"] if Path(config.model).is_absolute() else [])


def wishes(config: Config) -> list[str]:
    """Return all that a config asks for beyond being read: also code to score with, and where curves are sent."""
    functions = [f"the function {name}" for name in config.metrics if is_function(name)]
    return [*model_wishes(config), *functions, *(f"the tracker {name}" for name in config.trackers)]


def check_trusted(folder: Folder, config: Config, asked: list[str], trust: bool) -> None:
    """Raise SetupError where a run folder from elsewhere `asked` for what `config` still holds, unless `trust`."""
    wanted = [wish for wish in asked if wish in wishes(config)]
    if wanted and not trust and not is_own(folder):
        raise SetupError(
            f"{folder.path}: this run folder was not made by you here, and its config.yaml asks for "
            f"{', '.join(wanted)}. Try: read it, then --trust (trust=True in Python)"
        )

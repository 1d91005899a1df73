"""Where a base model's files come from - the package, a folder, the hub - and what they are by their content."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants, get_session, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from bakeoff.errors import SetupError

EMBEDDED = Path(__file__).parent / "assets/base"
WEIGHTS = (".safetensors", ".bin")
ANSWER_SECONDS = 5.0  # how long the hub may take to answer at all
FILES = (*WEIGHTS, ".json", ".txt", ".model", ".jinja")


def resolve(name: str) -> str:
    """Return what transformers loads for a config's `model`: the embedded folder, a folder or a hub id."""
    if name == "base":
        return str(EMBEDDED)
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").exists():
        raise SetupError(f"model: {name}: not a model folder (no config.json). Allowed: a hub id, a model folder, base")
    if not folder.exists() and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        raise SetupError(f"model: {name}: no such folder. Allowed: a hub id, a model folder, base")
    return name


@lru_cache(maxsize=1)
def hub_answers(minute: int) -> bool:
    """Return whether the hub can be reached, asking it once in a minute and without the client's own retries."""
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception:  # whatever the client and what lies below it raise: there was no answer
        return False
    return True


@contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Within, a hub model's files come from the cache alone where the hub does not answer."""
    before = constants.HF_HUB_OFFLINE
    if not before and name != "base" and not Path(name).exists():
        constants.HF_HUB_OFFLINE = not hub_answers(int(time.monotonic() // 60))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Within, turn transformers' errors of loading into one line."""
    try:
        with hub_or_cache(name):
            yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SetupError(
            f"model: {name}: cannot be loaded ({reason}). Allowed: a hub id, a model folder, base"
        ) from None


def fetch(name: str) -> None:
    """Download all of a hub model that a run reads, so that its identity is known before the first run.

    Without a network what is in the cache is used. Raises SetupError where a folder or the cache holds no weights.
    """
    folder = Path(resolve(name))
    if not folder.exists():
        folder = download(name, [f"*{suffix}" for suffix in FILES if suffix != ".bin"])
        if not any(f.suffix == ".safetensors" for f in folder.iterdir()):
            folder = download(name, [f"*{suffix}" for suffix in FILES])
    if not any(f.suffix in WEIGHTS for f in folder.iterdir()):
        raise SetupError(f"model: {name}: holds no weights ({' or '.join(WEIGHTS)} files)")


def download(name: str, patterns: list[str], local_files_only: bool = False) -> Path:
    """Return a hub model's folder in the cache with its newest files; raise SetupError where it cannot be had."""
    try:
        if local_files_only:
            return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        with hub_or_cache(name):
            return Path(snapshot_download(name, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise SetupError(
            f"model: {name}: not on this machine, and not to be had from the hub. "
            "Allowed: a hub id, a model folder, base"
        ) from None


def base_identity(name: str) -> str | None:
    """Return a hash of the base's weights, config and tokenizer files; None for a hub id that is not in the cache."""
    folder = Path(resolve(name))
    if not folder.exists():
        try:
            folder = download(name, ["*"], local_files_only=True)
        except SetupError:
            return None
    files = sorted(p for p in folder.iterdir() if p.suffix in FILES)
    return files_identity(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=8)
def files_identity(files: tuple[tuple[str, int, int], ...]) -> str:
    """Return a hash of the names and contents of files, given with size and time so that a change is noticed."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(Path(path).name.encode())
        with Path(path).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]

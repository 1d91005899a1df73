"""Finds the files of a base model (in the package, a folder, or the hub), and identifies them by their content.

The files of a hub model are read from its folder in the cache, at one commit. Nothing else asks the hub.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi, constants, get_session, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from bakeoff.config.sections import LATEST, Pin
from bakeoff.errors import SetupError
from bakeoff.library_errors import first_line, one_line
from bakeoff.model_files import READ, check_kinds, check_links, check_weights, end_ids, weight_files
from bakeoff.store.content_hash import Stamped, file_hashes, stamped
from bakeoff.store.files import ASSETS

constants.HF_HUB_DISABLE_TELEMETRY = True  # what is asked of the hub says nothing of this machine
EMBEDDED = ASSETS / "base"
ANSWER_SECONDS = 5.0  # how long the hub may take to answer at all
CONFIG = ("config.json",)
STOPS = ("config.json", "generation_config.json")
TOKENIZER = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = ("model.safetensors", "model-*.safetensors")  # not consolidated.safetensors, which are the same once more
CODE = ("*.py",)
BELOW = "*/*"  # copies in other formats lie in folders (onnx, original)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
NOWHERE = "no such folder, not complete in the hub's cache"
ALLOWED = "Allowed: a hub id, a model folder, base"
SETTINGS = (
    "Fix the proxy and certificate settings in the environment (ALL_PROXY, HTTPS_PROXY, SSL_CERT_FILE), "
    "or set HF_HUB_OFFLINE=1"
)
TOKEN = "a token: hf auth login, or the environment variable HF_TOKEN"


def on_hub(name: str) -> bool:
    """Return whether a config's `model` is a hub id; raise SetupError if it is a folder that is not a model."""
    if name == "base":
        return False
    folder = Path(name)
    if os.path.exists(folder):  # noqa: PTH110 - Path.exists raises where no system takes the name
        if not (folder / "config.json").exists():
            raise SetupError(f"model: {name}: not a model folder (no config.json). {ALLOWED}")
        check_kinds(name, folder)
        return False
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise SetupError(f"model: {name}: no such folder. {ALLOWED}")
    return True


@lru_cache(maxsize=1)
def hub_answers(minute: int) -> bool:
    """Return whether the hub can be reached; it is asked once per minute, without the client's own retries.

    Raises SetupError if it cannot be asked at all: then the cause is not the network, but this machine's settings.
    """
    with one_line("the hub cannot be asked", SETTINGS):  # the client's set-up raises ImportError for a SOCKS proxy
        try:
            get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
        except (HTTPError, ConnectionError, TimeoutError):
            return False
    return True


def reachable() -> bool:
    """Return whether the hub may be asked: it answers, and offline mode is not set."""
    return not constants.HF_HUB_OFFLINE and hub_answers(int(time.monotonic() // 60))


@contextmanager
def offline_unless_reachable() -> Iterator[None]:
    """Put the hub client into offline mode if the hub does not answer; else it would retry for half a minute."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a hub model's revision (default: its main branch) has now.

    If the hub does not answer, it is the one in the cache, or None. Raises SetupError if there is no such model or
    revision, or if a revision of a folder is asked for.
    """
    if not on_hub(name):
        if revision is not None:
            raise SetupError(
                f"revision: {revision}: only hub models have one, but model is {name}. Try: revision: null"
            )
        return None
    with explained(name, revision):
        try:
            return HfApi().resolve_revision(name, revision=revision, local_files_only=not reachable()).resolved
        except RevisionResolutionError:
            return None


def model_folder(name: str, pin: Pin = LATEST, files: tuple[str, ...] | None = None, ask_hub: bool = True) -> Path:
    """Return the folder with a base's files; missing files of a hub model are downloaded.

    `files` are patterns, by default those of all files that a run reads. Raises SetupError if they cannot be
    downloaded.
    """
    if not on_hub(name):
        return EMBEDDED if name == "base" else Path(name)
    with explained(name, pin.revision):
        try:
            return snapshot(name, pin, files, local_files_only=True)
        except LocalEntryNotFoundError:
            if not (ask_hub and reachable()):
                raise
        return snapshot(name, pin, files)


def snapshot(name: str, pin: Pin, files: tuple[str, ...] | None = None, local_files_only: bool = False) -> Path:
    """Return the folder in the cache with a hub model's files; the commit is its name."""
    patterns = [*(files or (*TOKENIZER, *WEIGHTS)), *(CODE if pin.remote_code else ())]
    with progress():
        return Path(
            snapshot_download(
                name,
                revision=pin.revision,
                allow_patterns=patterns,
                ignore_patterns=BELOW,
                local_files_only=local_files_only,
            )
        )


@contextmanager
def progress() -> Iterator[None]:
    """Let downloads draw progress bars only on a terminal."""
    shown = not are_progress_bars_disabled()
    if shown and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextmanager
def explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the hub client into one line."""
    try:
        yield
    except (HTTPError, EntryNotFoundError, HFValidationError, OSError, RuntimeError) as error:
        raise SetupError(f"model: {name}: {reason(name, revision, error)}") from None


def reason(name: str, revision: str | None, error: Exception) -> str:
    """Return why a hub model cannot be downloaded, and what to try."""
    page = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, GatedRepoError):
        return f"gated: request access on {page}. Then it needs {TOKEN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no such model, or it is private. Check the spelling; a private model needs {TOKEN}"
    if isinstance(error, RevisionNotFoundError):
        return f"no revision '{revision}'. Allowed: a branch, tag or commit that {page}/tree/main lists"
    if isinstance(error, HFValidationError):
        return f"neither a folder nor a hub id. {ALLOWED}"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return f"{NOWHERE}, and HF_HUB_OFFLINE is set. Try: unset it, or name a model folder"
        return f"{NOWHERE}, and the hub ({constants.ENDPOINT}) does not answer. {ALLOWED}"
    if isinstance(error, EntryNotFoundError):
        return "the hub lists a file that it does not have. Try: another revision, or try again later"
    if isinstance(error, HfHubHTTPError):
        return f"the hub refuses ({first_line(error)}). It may need {TOKEN}"
    return f"the download was interrupted ({first_line(error)}). Run the same command again to resume"


def fetch(name: str, pin: Pin = LATEST) -> None:
    """Put all files of a base that a run reads on this machine, so that its identity is known before the first run.

    Raises SetupError if weights are missing, damaged or pickled: reading a pickle can run any code in it.
    """
    if on_hub(name) and reachable():
        with explained(name, pin.revision):
            snapshot(name, pin)  # looks at every file, also where an older client filled the cache in part
    folder = model_folder(name, pin, ask_hub=False)
    if not (folder / "config.json").exists():
        raise SetupError(f"model: {name}: config.json is missing, so transformers cannot load it. {ALLOWED}")
    check_links(name, folder)
    weights = weight_files(name, folder)
    if not weights:
        pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED)
        only = f", only {pickled[0]}, a pickle, which can run any code when it is read" if pickled else ""
        raise SetupError(
            f"model: {name}: has no safetensors weights{only}. Try: a revision that has them (the hub's conversions "
            f"are named refs/pr/N), or save_pretrained"
        )
    for file in weights:
        check_weights(name, file)


def stop_ids(name: str, pin: Pin) -> list[int]:
    """Return the ids that a base's own files end outputs with; files that are missing or hold no ids are ignored."""
    try:
        folder = model_folder(name, pin, (*CONFIG, *TOKENIZER), ask_hub=False)
    except SetupError:
        return []
    return sorted({i for file in STOPS for i in end_ids(folder / file)})


def base_files(name: str, pin: Pin) -> tuple[Stamped, ...]:
    """Return path, size and time of each weight, config and tokenizer file of a base; empty if it is not here."""
    try:
        folder = model_folder(name, pin, ask_hub=False)
    except SetupError:
        return ()
    suffixes = READ | ({".py"} if pin.remote_code else set())
    return stamped(p for p in folder.iterdir() if p.suffix in suffixes)


def base_hashes(name: str, pin: Pin = LATEST) -> dict[str, str]:
    """Return the SHA-256 of each of the base's files by name; empty for a hub model that is not here."""
    return file_hashes(base_files(name, pin))


def base_stamps(name: str, pin: Pin = LATEST) -> dict[str, list[int]]:
    """Return size and time of each of the base's files by name: where they are the same, so is the content."""
    return {Path(path).name: [size, time] for path, size, time in base_files(name, pin)}


def base_identity(name: str, pin: Pin = LATEST) -> str | None:
    """Return a hash of the names and contents of the base's files; None for a hub model that is not here."""
    hashes = base_hashes(name, pin)
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16] if hashes else None


def account() -> tuple[str, Path, bool, bool]:
    """Return the hub's address, the folder of its cache, whether it is switched off, and whether there is a token."""
    from huggingface_hub import constants, get_token

    return constants.ENDPOINT, Path(constants.HF_HUB_CACHE), bool(constants.HF_HUB_OFFLINE), get_token() is not None

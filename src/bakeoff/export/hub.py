"""Uploads an export to the hub. The token is the one that huggingface_hub finds; it is never read here, or written."""

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bakeoff.errors import SetupError
from bakeoff.hub import TOKEN, progress
from bakeoff.library_errors import one_line


def explained(repo: str) -> AbstractContextManager[None]:
    """Turn errors of the hub client into one line."""
    return one_line(f"--repo {repo}: the hub refuses", f"It needs {TOKEN}")


def prepare(repo: str, public: bool) -> None:
    """Make the repository, private unless `public`; raise SetupError if that is not allowed, or it is public already.

    It is called before anything is exported, so that a missing token costs nothing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    with explained(repo):
        try:
            found = api.model_info(repo)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=not public)
            return
    if not found.private and not public:
        raise SetupError(f"--repo {repo}: this repository is public. Try: --public, or another one")


def upload(folder: Path, repo: str, message: str) -> str:
    """Upload an export's folder and return its address; raise SetupError if an uploaded file differs from ours."""
    from huggingface_hub import HfApi

    api = HfApi()
    with explained(repo), progress():
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        there = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True, revision=done.oid)}
    for file in sorted(folder.iterdir()):
        if not same(file, there.get(file.name)):
            raise SetupError(
                f"--repo {repo}: the uploaded {file.name} differs from the one in {folder}. Try: hf upload"
            )
    return str(done.repo_url)


def same(file: Path, entry: Any) -> bool:
    """Return whether a file on the hub has the size, and if the hub has it the SHA-256, of a local one."""
    if entry is None or entry.size != file.stat().st_size:
        return False
    if entry.lfs is None:
        return True
    with file.open("rb") as content:
        return bool(entry.lfs.sha256 == hashlib.file_digest(content, "sha256").hexdigest())

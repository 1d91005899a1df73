"""The docstring task: write the summary line of a Python docstring from its body.

PEP 257 asks every docstring for a one-line summary, a blank line and a description, so each installed library is a
summarization corpus that needs no network. This module reads source files as text and never imports them. It does not
know tokens, models, or splits of other data.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bakeoff.data.examples import Example
from bakeoff.errors import DataError, SetupError
from bakeoff.store.files import ASSETS, json_object, read_jsonl, write_jsonl

SUMMARY_WORDS = (3, 25)
BODY_WORDS = 25
STANDARD_LIBRARY = "stdlib"
# Named one by one: which others a Python has depends on its minor version and on how it was packaged.
STANDARD_MODULES = (ASSETS / "stdlib.txt").read_text(encoding="utf-8").split()

# Which package is in which split, and what it gave where the manifest was made (tools/docstring_manifest.py). No
# package here may stand in the base's pretraining corpus (tools/base_packages.txt).
MANIFEST: dict[str, dict[str, dict[str, str]]] = json.loads((ASSETS / "docstrings.json").read_text(encoding="utf-8"))


def iter_docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, cleaned docstring) for every module, class and function below `root`, in path order.

    `root` is a package folder or a single file. A file that does not decode or parse is skipped: packages contain
    templates and test fixtures that are not Python.
    """
    for file in python_files(root):
        try:
            with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's strings
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        place = file.relative_to(root.parent).with_suffix("").as_posix().replace("/", ".")
        yield from _walk(tree, place)


def python_files(root: Path) -> list[Path]:
    """Return the sources below `root` in path order, without tests, which describe cases and not interfaces."""
    if root.is_file():
        return [root]
    skipped = {"test", "tests", "testing", "_vendor", "site-packages"}
    return sorted(f for f in root.rglob("*.py") if skipped.isdisjoint(f.relative_to(root).parts))


def _walk(node: ast.AST, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield place, inspect.cleandoc(text)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{place}.{child.name}")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _walk(child, place)


def split_summary(docstring: str) -> tuple[str, str] | None:
    """Return (body, summary) of a PEP 257 docstring, or None if it is not one, or not clean enough.

    The summary is the first paragraph, of 3 to 25 words, mostly letters; the body has 25 words or more.
    """
    head, _, rest = docstring.partition("\n\n")
    summary = " ".join(head.split())
    body = re.sub(r"\n\s*\n+", "\n\n", "\n".join(line.rstrip() for line in rest.strip().splitlines()))
    words = summary.split()
    if not SUMMARY_WORDS[0] <= len(words) <= SUMMARY_WORDS[1] or len(body.split()) < BODY_WORDS:
        return None
    letters = sum(c.isalpha() or c.isspace() for c in summary)
    if letters < 0.8 * len(summary) or not summary[0].isalpha() or summary.endswith(":") or not summary.isascii():
        return None
    return body, summary


def fingerprint(text: str) -> str:
    """Return a hash that is the same for texts which differ only in case, digits, punctuation or white space."""
    return hashlib.sha256(re.sub(r"[\W\d_]+", "", text.lower()).encode()).hexdigest()[:16]


def package_roots(name: str) -> list[Path]:
    """Return the folders or files of package `name`, without importing it; raise DataError if there are none."""
    if name == STANDARD_LIBRARY:
        return [root for n in STANDARD_MODULES for root in _located(n)]
    roots = _located(name)
    if not roots:
        raise DataError(
            f"data: docstrings: package '{name}' is not installed. Try: pip install -c constraints.txt {name}"
        )
    return roots


def _located(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [Path(p) for p in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []


def load_docstrings() -> dict[str, list[Example]]:
    """Return the examples of each split in a fixed order; the same installed versions give the same examples.

    Parsing thousands of files takes a while, so the result is kept in the user's cache. Its name depends on the size
    and time of every file read.
    """
    cache = cache_folder() / f"docstrings-{sources_identity()}.jsonl"
    if cache.exists():
        with suppress(SetupError):  # damaged: then made anew
            rows = list(read_jsonl(cache, json_object, torn=False))
            return {s: [Example.from_row(row["example"]) for row in rows if row["split"] == s] for s in MANIFEST}
    splits = read_docstrings()
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_jsonl(cache, ({"split": s, "example": e.row()} for s, rows in splits.items() for e in rows))
    return splits


def read_docstrings() -> dict[str, list[Example]]:
    """Return the examples as `load_docstrings` does, from the sources themselves.

    Summaries and bodies that differ only in case, digits or punctuation count once, over all splits: test keeps
    its copy first, then validation, so that nothing evaluated is trained on.
    """
    seen: set[str] = set()
    splits: dict[str, list[Example]] = {}
    for split in ("test", "validation", "train"):
        rows = splits[split] = []
        for name in MANIFEST[split]:
            for root in package_roots(name):
                for place, docstring in iter_docstrings(root):
                    pair = split_summary(docstring)
                    if pair is None:
                        continue
                    hashes = {fingerprint(pair[0]), fingerprint(pair[1])}
                    if seen.isdisjoint(hashes):
                        rows.append(Example(id=place, document=pair[0], summary=pair[1], group=name))
                    seen |= hashes
    return splits


def cache_folder() -> Path:
    """Return the user's cache folder for bakeoff (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bakeoff"


def sources_identity() -> str:
    """Return a hash of this module, the Python version, and the place, size and time of every source file."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode() + json.dumps(MANIFEST).encode())
    for split in MANIFEST.values():
        for name in split:
            for root in package_roots(name):
                for file in python_files(root):
                    facts = file.stat()
                    digest.update(f"{file} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def manifest_of(splits: dict[str, list[Example]]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the manifest of examples: their number and content hash by split and package."""
    manifest: dict[str, dict[str, dict[str, str]]] = {}
    for split, rows in splits.items():
        manifest[split] = {}
        for name in MANIFEST[split]:
            texts = [f"{e.document}\0{e.summary}\0" for e in rows if e.group == name]
            digest = hashlib.sha256("".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
            manifest[split][name] = {"examples": str(len(texts)), "sha256": digest}
    return manifest


def manifest_findings(splits: dict[str, list[Example]]) -> list[str]:
    """Return one line for every package whose examples differ from the manifest: another version is installed."""
    here = manifest_of(splits)
    cures = {STANDARD_LIBRARY: "It was made with Python 3.11"}
    return [
        f"docstrings: {name} ({split}) gives other examples than the manifest; compare results only between the same "
        f"versions. {cures.get(name, 'Try: pip install -c constraints.txt')}"
        for split, packages in MANIFEST.items()
        for name, facts in packages.items()
        if facts != here[split][name]
    ]

"""The docstring task: write the summary line of a Python docstring from its body.

PEP 257 asks every docstring for a one-line summary, a blank line and a description, so each installed
library is a summarization corpus that can be read without a network. This module reads source files as
text: it never imports the packages it reads, and knows nothing of tokens, models or splits of other data.
"""

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bakeoff.data.examples import Example
from bakeoff.errors import DataError

SUMMARY_WORDS = (3, 25)
BODY_WORDS = 25
STANDARD_LIBRARY = "stdlib"

# Split by package. No package here may stand in the base's pretraining corpus (tools/base_packages.txt).
PACKAGES = {
    "train": ("torch", "scipy", "sympy", "accelerate", "peft", "huggingface_hub", "absl", "mpmath", STANDARD_LIBRARY),
    "validation": ("nltk", "narwhals", "fsspec", "anyio"),
    "test": ("numpy", "networkx", "click", "jinja2", "joblib", "jsonschema", "rich"),
}


def iter_docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, cleaned docstring) for every module, class and function below `root`, in path order.

    `root` is a package folder or a single file. A file that does not decode or parse is passed over:
    packages ship templates and test fixtures that are no Python.
    """
    for file in python_files(root):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        place = file.relative_to(root.parent).with_suffix("").as_posix().replace("/", ".")
        yield from _walk(tree, place)


def python_files(root: Path) -> list[Path]:
    """Return the sources below `root` in path order, without tests: those describe cases, not interfaces."""
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
    """Return (body, summary) of a PEP 257 docstring, or None where it is not one or not clean enough.

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
    """Return a hash that texts share when they differ only in case, digits, punctuation or white space."""
    return hashlib.sha256(re.sub(r"[\W\d_]+", "", text.lower()).encode()).hexdigest()[:16]


def package_roots(name: str) -> list[Path]:
    """Return the folders or files that hold package `name`, without importing it; raise DataError where it is missing."""
    if name == STANDARD_LIBRARY:
        names = sorted(n for n in sys.stdlib_module_names if not n.startswith("_") and n not in ("antigravity", "this"))
        return [root for n in names for root in _located(n)]
    roots = _located(name)
    if not roots:
        raise DataError(f"data: docstrings: package '{name}' is not installed. Try: pip install -c constraints.txt {name}")
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

    Summaries and bodies that differ only in case, digits or punctuation count once, over all splits: test keeps
    its copy first, then validation, so that nothing evaluated is trained on.
    """
    seen: set[str] = set()
    splits: dict[str, list[Example]] = {}
    for split in ("test", "validation", "train"):
        rows = splits[split] = []
        for name in PACKAGES[split]:
            for root in package_roots(name):
                for place, docstring in iter_docstrings(root):
                    pair = split_summary(docstring)
                    if pair is None:
                        continue
                    marks = {fingerprint(pair[0]), fingerprint(pair[1])}
                    if seen.isdisjoint(marks):
                        rows.append(Example(id=place, document=pair[0], summary=pair[1], group=name))
                    seen |= marks
    return splits

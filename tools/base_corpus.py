"""The embedded base's corpus: prose of installed-package sources that the docstring task does not use.

Downloads the wheels pinned in `base_packages.txt` without their dependencies, reads docstrings, block comments
and package descriptions out of them, drops duplicates and everything close to the task's validation and test
examples, trains the byte-level BPE and writes token arrays. Nothing here is imported by the package.
"""

import functools
import hashlib
import io
import json
import multiprocessing
import re
import subprocess
import sys
import tokenize
import zipfile
from pathlib import Path

import numpy
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from bakeoff.data.docstrings import fingerprint, iter_docstrings, load_docstrings

HERE = Path(__file__).parent
VOCABULARY = 8192
END = "<|endoftext|>"
HELD_OUT = ("lmfit", "pint", "marshmallow", "lifelines", "mesa", "celery")
PACKAGE_CHARACTERS = 4_000_000  # a generated API client must not outweigh fifty written packages
SHINGLE_WORDS = 8


def download(folder: Path) -> None:
    """Fetch every pinned wheel into `folder`; those that are there already are kept."""
    pins = (HERE / "base_packages.txt").read_text().split()
    folder.mkdir(parents=True, exist_ok=True)
    have = {p.name.split("-")[0].lower() + "==" + p.name.split("-")[1] for p in folder.glob("*.whl")}
    missing = [
        pin
        for pin in pins
        if pin.lower().replace("-", "_").replace(".", "_") not in {h.replace(".", "_") for h in have}
    ]
    for pin in missing:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(folder),
            pin,
        ]
        subprocess.run(command, check=True)


def read_wheel(wheel: Path, scratch: Path) -> list[str]:
    """Return the texts of one wheel in a fixed order: description, docstrings, block comments."""
    target = scratch / wheel.stem
    texts = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".dist-info/METADATA"):
                texts += split_description(archive.read(name).decode(errors="replace").partition("\n\n")[2])
            elif name.endswith(".py") and not re.search(r"(^|/)(tests?|testing|_vendor|vendor|vendored)/", name):
                archive.extract(name, target)
    if target.exists():
        for root in sorted(target.iterdir()):
            texts += [text for _, text in iter_docstrings(root) if len(text.split()) >= 8]
            for file in [root] if root.is_file() else sorted(root.rglob("*.py")):
                texts += block_comments(file)
    return texts


def read_apart(wheel: Path, scratch: Path, guarded: set[int]) -> tuple[list[str], int]:
    """Return a wheel's texts, less those that share over a fifth of their shingles with the guarded, and how many."""
    texts = read_wheel(wheel, scratch)
    apart = [t for t in texts if len((grams := shingles(t)) & guarded) <= 0.2 * len(grams)]
    return apart, len(texts) - len(apart)


def split_description(description: str) -> list[str]:
    """Cut a long README into pieces of a few paragraphs, each without badges and raw HTML."""
    paragraphs = [
        p.strip() for p in description.split("\n\n") if not re.search(r"<\w|badge|\]\(http|https?://\S{60}", p)
    ]
    return ["\n\n".join(paragraphs[i : i + 6]) for i in range(0, len(paragraphs), 6)]


def block_comments(file: Path) -> list[str]:
    """Return runs of full-line comments of 15 words or more, the hash signs removed."""
    blocks: list[str] = []
    lines: list[str] = []
    last = -1
    try:
        tokens = list(tokenize.tokenize(io.BytesIO(file.read_bytes()).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return []
    for token in tokens:
        if token.type != tokenize.COMMENT or token.line[: token.start[1]].strip():
            continue
        if token.start[0] != last + 1:
            blocks.append("\n".join(lines))
            lines = []
        last = token.start[0]
        lines.append(token.string.lstrip("#").strip())
    blocks.append("\n".join(lines))
    return [b for b in blocks if len(b.split()) >= 15 and sum(c.isalpha() or c == " " for c in b) > 0.85 * len(b)]


def shingles(text: str) -> set[int]:
    """Return the set of hashed runs of SHINGLE_WORDS words."""
    words = re.findall(r"[a-z]+", text.lower())
    return {hash_words(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def hash_words(words: list[str]) -> int:
    """Return a 64-bit hash that does not depend on the interpreter's hash seed."""
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")


def build(work: Path) -> dict:
    """Write tokenizer, train.npy, held_out.npy and corpus.json below `work`; return corpus.json's content."""
    download(work / "wheels")
    guarded: set[int] = set()
    for split, examples in load_docstrings().items():
        if split != "train":
            guarded |= {gram for e in examples for gram in shingles(e.summary + "\n" + e.document)}
    seen: set[str] = set()
    texts: dict[str, list[str]] = {"train": [], "held_out": []}
    packages: dict[str, dict] = {}
    dropped = 0
    wheels = sorted((work / "wheels").glob("*.whl"), key=lambda w: w.name.lower())
    with multiprocessing.Pool() as pool:
        read = pool.imap(functools.partial(read_apart, scratch=work / "sources", guarded=guarded), wheels)
        for wheel, (rows, near) in zip(wheels, read, strict=True):
            name, version = wheel.name.split("-")[:2]
            dropped += near
            room, kept = PACKAGE_CHARACTERS, 0
            for text in rows:
                mark = fingerprint(text)
                if mark in seen or len(text) > room:
                    continue
                seen.add(mark)
                room, kept = room - len(text), kept + 1
                texts["held_out" if name.lower() in HELD_OUT else "train"].append(text)
            packages[name] = {"version": version, "texts": kept, "characters": PACKAGE_CHARACTERS - room}
            print(f"{name} {version}: {kept} texts, {PACKAGE_CHARACTERS - room:,} characters", flush=True)
    return write(work, texts, packages, dropped)


def write(work: Path, texts: dict[str, list[str]], packages: dict, dropped: int) -> dict:
    """Train the tokenizer on the training texts and store both splits as uint16 arrays in a seeded order."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts["train"], vocab_size=VOCABULARY, special_tokens=[END], show_progress=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=512,
    )
    fast.save_pretrained(work / "tokenizer")
    end = fast.eos_token_id
    facts: dict = {"packages": packages, "held_out_packages": list(HELD_OUT), "dropped_near_task": dropped}
    for split, rows in texts.items():
        order = numpy.random.default_rng(0).permutation(len(rows))
        encoded = bpe._tokenizer.encode_batch([rows[i] for i in order])
        stream = numpy.concatenate([numpy.array([*e.ids, end], dtype=numpy.uint16) for e in encoded])
        numpy.save(work / f"{split}.npy", stream)
        facts[split] = {"tokens": len(stream), "texts": len(rows), "bytes": sum(len(r.encode()) for r in rows)}
        facts[split]["sha256"] = hashlib.sha256(stream.tobytes()).hexdigest()
    (work / "corpus.json").write_text(json.dumps(facts, indent=1))
    return facts

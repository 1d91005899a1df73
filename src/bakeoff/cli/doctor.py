"""What `bakeoff doctor` reports: environment, checks with advice, and a tiny bakeoff with each kind of model."""

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from packaging.requirements import Requirement

from bakeoff.driver.device import survey
from bakeoff.driver.environment import environment, usable_cores
from bakeoff.errors import BakeoffError, SetupError

FAMILIES = {"causal": "llama", "encoder-decoder": "t5"}
WORDS = 190  # of the tiny models' vocabulary
FREE_BYTES = 5 * 10**9  # a small model, its adapters and a trunk cache


@dataclass(frozen=True)
class Check:
    """One finding: `ok`, `advice` (works, but worse than it could) or `problem` (something will fail)."""

    name: str
    status: Literal["ok", "advice", "problem"]
    text: str


def examine(asked: str = "auto") -> dict[str, Any]:
    """Return environment and checks as plain data; nothing is left on the disk. `asked` is as in `machine.device`."""
    there = device(asked)
    usable = asked if there.status != "problem" else "cpu"
    checks = [packages(), there, cores(), disk(), hub(), *(family(name, usable) for name in FAMILIES)]
    return {"environment": environment(usable), "checks": [asdict(check) for check in checks]}


def packages() -> Check:
    """Return whether all packages that bakeoff needs are installed, in versions that it supports."""
    wrong = []
    for text in requires("bakeoff") or []:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            installed = "none"
        if installed == "none" or not needed.specifier.contains(installed, prereleases=True):
            wrong.append(f"{needed.name} {installed} (needs {needed.specifier or 'any'})")
    if wrong:
        return Check("packages", "problem", f"{'; '.join(wrong)}. Try: pip install -U bakeoff")
    return Check("packages", "ok", "all packages are installed, in supported versions")


def device(asked: str) -> Check:
    """Return what runs train on, and whether there is a better device that torch cannot use."""
    import torch

    try:
        found = survey(asked)
    except BakeoffError as error:
        return Check("device", "problem", str(error))
    if found.name:
        free, total = found.free_bytes, found.total_bytes
        text = f"{found.name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        slow = ". It multiplies fp16 faster than fp32, which auto chooses on it. Try: -s protocol.precision=fp16"
        fine = free > total / 2 and not found.fast_fp16
        return Check("device", "ok" if fine else "advice", text + (slow if found.fast_fp16 else ""))
    if asked == "auto" and Path("/dev/nvidiactl").exists():
        cure = "a build of torch for it (pytorch.org/get-started)" if torch.version.cuda is None else "nvidia-smi"
        return Check("device", "problem", f"torch {torch.__version__} cannot use the NVIDIA GPU. Try: {cure}")
    return Check(
        "device", "ok", "the processor: fast enough for models of some 100 million parameters, slow for larger ones"
    )


def cores() -> Check:
    """Return whether torch uses all cores that this process may use."""
    import torch

    threads = torch.get_num_threads()
    allowed = usable_cores()
    if threads < allowed // 2:
        name = next((n for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if n in os.environ), "OMP_NUM_THREADS")
        return Check("cores", "advice", f"torch uses {threads} of {allowed} cores. Try: unset {name}")
    return Check("cores", "ok", f"torch uses {threads} of {allowed} cores")


def disk() -> Check:
    """Return whether run folders can be written here, and downloads in the hub's cache."""
    from bakeoff.hub import account

    places = {"here": Path.cwd(), "the hub's cache": account()[1]}
    there = {name: next(p for p in (path, *path.parents) if p.exists()) for name, path in places.items()}
    shut = [f"{name} ({path})" for name, path in there.items() if not os.access(path, os.W_OK)]
    if shut:
        return Check("disk", "problem", f"cannot be written: {', '.join(shut)}. Try: another folder, or HF_HOME")
    free = {name: shutil.disk_usage(path).free for name, path in there.items()}
    text = ", ".join(
        f"{size / 1e9:.1f} GB free {name if name == 'here' else f'in {name}'}" for name, size in free.items()
    )
    return Check("disk", "ok" if min(free.values()) > FREE_BYTES else "advice", text)


def hub() -> Check:
    """Return whether models and data sets can be downloaded, also gated ones."""
    from bakeoff.hub import account, reachable

    address, _, switched_off, has_token = account()
    token = "with a token for gated models" if has_token else "without a token, so gated models cannot be downloaded"
    try:
        answers = reachable()
    except SetupError as error:
        return Check("hub", "problem", str(error))
    if answers:
        return Check("hub", "ok", f"{address} answers, {token}")
    why = "HF_HUB_OFFLINE is set" if switched_off else f"{address} does not answer"
    return Check("hub", "advice", f"{why}: only folders, the embedded base and models in the cache can be used")


def family(name: str, device: str) -> Check:
    """Return whether a bakeoff of one step with a tiny model works on this device; `name` is a key of FAMILIES."""
    from bakeoff import api

    begun = time.monotonic()
    with TemporaryDirectory(prefix="bakeoff-doctor-") as temporary:
        try:
            document = api.run(tiny_bakeoff(name, Path(temporary)), {"machine.device": device}, display="none").document
        except BakeoffError as error:
            return Check(name, "problem", str(error))
    entry = document.entries["lora"]
    if entry.status != "done":
        return Check(name, "problem", f"a tiny bakeoff failed: {entry.error}")
    broken = [check for check, passed in entry.checks.items() if not passed and check != "step0_beats_unigram"]
    if broken:
        return Check(name, "problem", f"the checks of a tiny bakeoff failed: {', '.join(broken)}")
    took = time.monotonic() - begun
    return Check(name, "ok", f"a tiny bakeoff took {took:.0f} s: train, validate, save, load, decode, score")


def tiny_bakeoff(name: str, folder: Path) -> dict[str, Any]:
    """Return the config of a bakeoff with a tiny model and a few rows, which are written into the folder."""
    from bakeoff.compute.model.loading import quiet
    from bakeoff.testing import family_base

    base = family_base(FAMILIES[name])
    with quiet():
        base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    texts = [" ".join(f"w{3 + (7 * i + 3 * k) % WORDS}" for k in range(12)) for i in range(8)]
    rows = [{"document": text, "summary": text[:8].rsplit(" ", 1)[0]} for text in texts]
    data = {}
    for split, part in (("train", rows[:4]), ("validation", rows[4:6]), ("test", rows[6:])):
        data[split] = str(folder / f"{split}.jsonl")
        Path(data[split]).write_text("".join(json.dumps(row) + "\n" for row in part))
    return {
        "name": "doctor", "model": str(folder / "model"), "data": data, "output": str(folder / "run"), "tune": None,
        "entries": {"lora": {"r": 2, "learning_rate": 1e-3}}, "baselines": ["base"],
        "protocol": {"epochs": 1, "seeds": 1, "batch_size": 4, "max_tokens": 48},
    }  # fmt: skip

"""The environment block of a record: versions and hardware, but no names of persons and no paths."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bakeoff.driver.device import survey

PACKAGES = ("bakeoff", "torch", "transformers", "peft", "bitsandbytes", "tokenizers", "numpy", "rouge-score")


def environment(device: str = "auto") -> dict[str, Any]:
    """Return a flat mapping of versions and hardware, on which results may depend; `device` is `machine.device`."""
    found = survey(device)
    accelerator = {"gpu": found.name, "native_precision": found.native_precision}
    return {"date": datetime.now(UTC).isoformat(timespec="seconds")} | machine() | accelerator


def machine() -> dict[str, Any]:
    """Return the part of `environment` that is known without torch."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    return facts


def accelerators() -> list[Any]:
    """Return what shows without torch whether this process may use the same accelerators as another one."""
    devices = sorted(str(file) for file in Path("/dev").glob("nvidia*"))
    names = [f"{maker}_VISIBLE_DEVICES" for maker in ("CUDA", "HIP", "ROCR")]
    hidden = [os.environ.get(name) for name in (*names, "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR")]
    return [devices, Path("/dev/kfd").exists(), Path("/dev/dri").exists(), *hidden]


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS


def processor() -> str:
    """Return the processor's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()

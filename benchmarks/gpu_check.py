"""Ten minutes on one GPU: what of bakeoff is wrong or slow there. `python benchmarks/gpu_check.py [--smoke] [NAME ...]`

It needs no network: models are random, of real shapes. Every check prints one JSON line, and none ends the others.
Checks that do not fit into --seconds, or into the GPU's memory, are skipped, and named. Names as arguments run single
checks. With --smoke, shapes are tiny and the checks run on the processor. Exits with 1 if a check failed.
"""

import argparse
import json
import os
import sys
import time
import traceback
from dataclasses import asdict

from bakeoff.driver.run_server import gpu_environment

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product, whatever it is set to later
os.environ.update(gpu_environment("cpu" if "--smoke" in sys.argv else "auto"))  # before torch is imported

from bakeoff.compute.model.device import release, set_rounding
from bakeoff.config.sections import ProtocolConfig
from bakeoff.driver.device import survey
from bakeoff.driver.environment import environment
from bakeoff.errors import BakeoffError
from gpu import equality, memory, speed
from gpu.harness import CHECKS, DEVICE, Check, Found

MODULES = (memory, equality, speed)  # whose checks run in this order


def attempt(check: Check) -> Found:
    """Return what a check found; an exception is one that failed."""
    try:
        return check.run()
    except Exception as error:  # no check ends the others
        traceback.print_exc(limit=-3)
        return {"failed": [f"{type(error).__name__}: {error}"[:300]]}


def main() -> None:
    """Run the checks, print what each found, and exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(CHECKS)}")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the processor")
    parser.add_argument("--seconds", type=float, default=540, help="for all checks (default: 540)")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(CHECKS)
    if unknown:
        parser.error(f"unknown check {', '.join(sorted(unknown))}. Allowed: {', '.join(CHECKS)}")
    if DEVICE.type == "cpu" and not asked.smoke:
        parser.error("torch finds no GPU here. Try: nvidia-smi, a build of torch for this GPU, or --smoke")
    set_rounding(ProtocolConfig())
    try:
        there = survey(str(DEVICE))  # by a process of its own: the first check needs the device for runs alone
    except BakeoffError as error:
        parser.error(str(error))
    print(json.dumps({"device": asdict(there), **environment(str(DEVICE))}), flush=True)
    begun, failed = time.monotonic(), []
    for name in asked.names or CHECKS:
        started, needed = time.monotonic(), CHECKS[name].gigabytes
        late = not asked.names and started - begun + CHECKS[name].seconds > asked.seconds
        if late or needed * 1e9 > there.total_bytes:
            why = "no time left" if late else f"needs {needed:g} GB"
            print(json.dumps({"check": name, "skipped": why}), flush=True)
            continue
        found = attempt(CHECKS[name])
        failed += [name] if "failed" in found else []
        print(json.dumps({"check": name, "seconds": round(time.monotonic() - started, 1), **found}), flush=True)
        release(DEVICE)
    print(json.dumps({"failed": failed, "seconds": round(time.monotonic() - begun)}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

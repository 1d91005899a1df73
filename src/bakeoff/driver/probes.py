"""Probes the entries of a plan one after the other, each in its own process."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from bakeoff.child_process import child
from bakeoff.errors import SetupError
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.run_folder import Folder
from bakeoff.tuning.entries import Entry


def run_probes(
    folder: Folder, entries: Mapping[str, Entry], plan: PlanDocument, device: str, environment: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return what a probe measured for each entry, at the largest point of its search.

    `folder` has config and tokens; `device` is named as in `machine.device`. If a probe was killed, as the system does
    if memory runs out, `error` says so.
    Raises SetupError if a probe ends in another way.
    """
    return {name: run_probe(folder, entry, plan, device, environment) for name, entry in entries.items()}


def run_probe(
    folder: Folder, entry: Entry, plan: PlanDocument, device: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a probe measured for one entry."""
    method = max(entry.methods(), key=lambda m: (m.virtual_tokens, str(m.model_dump())))
    asked = {
        "entry": entry.name, "method": entry.method, "settings": method.model_dump(mode="json"),
        "precision": plan.precision, "decoding": plan.decoding_precision, "quantize": entry.quantize,
        "device": device,
    }  # fmt: skip
    words = child("compute.run.profile", str(folder.path))
    done = subprocess.run(words, input=json.dumps(asked), env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        return {"error": f"its probe was ended by signal {-done.returncode}, which may mean that memory ran out"}
    reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    raise SetupError(f"entries.{entry.name}: cannot be probed ({reason})")

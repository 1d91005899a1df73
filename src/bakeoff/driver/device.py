"""What the driver knows of the device that runs use, without touching it.

Free memory and what a GPU multiplies fastest can be asked only by a process that has a context on it. That takes some
hundred MB of its memory, and a GPU in exclusive mode then belongs to that process: so it is one of its own, and ends.
"""

import json
import subprocess
from functools import cache
from typing import TYPE_CHECKING

from bakeoff.child_process import child
from bakeoff.config.machine import MachineConfig
from bakeoff.driver.run_server import process_environment
from bakeoff.errors import ConfigError, SetupError, listed

if TYPE_CHECKING:
    from bakeoff.compute.model.device import Facts

SECONDS = 300.0  # that a driver may take to answer: the first use of a GPU after a boot can take a minute


@cache
def survey(asked: str) -> "Facts":
    """Return the facts of the device that `machine.device` names.

    Raises ConfigError where this machine has none such, SetupError where it cannot be used.
    """
    from bakeoff.compute.model.device import choose, facts

    device = choose(asked)
    return facts(device) if device.type == "cpu" else asked_apart(str(device))


def named_devices(machine: MachineConfig) -> list[str]:
    """Return the devices that `machine.devices` names; raise ConfigError if this machine is without one of them.

    They are of the kind that `machine.device` names; with auto, of the kind that it would choose.
    """
    from bakeoff.compute.model.device import visible

    assert machine.devices != "auto"
    here = [name for name in visible() if not name.startswith("mps")]
    kind = machine.device if machine.device != "auto" else here[0].partition(":")[0] if here else "cuda"
    there = [name.partition(":")[2] for name in here if name.startswith(kind)]
    for index in machine.devices:
        if str(index) not in there:
            raise ConfigError(
                f"machine.devices: {index}: torch finds no {kind}:{index}. Allowed here: {listed(there) or 'none'}. "
                "Try: nvidia-smi, or without machine.devices"
            )
    return [f"{kind}:{index}" for index in machine.devices]


def first_devices(machine: MachineConfig) -> str:
    """Return the devices of the first run, with commas between them, as `machine.device` names one.

    Torch is imported only where the config names several. Raises ConfigError if this machine is without one of them.
    """
    return machine.device if machine.devices == "auto" else ",".join(named_devices(machine)[: machine.shards])


def first_device(machine: MachineConfig) -> str:
    """Return the device of the first run, as `machine.device` names one; of several that share it the first one."""
    return first_devices(machine).partition(",")[0]


def devices_of(machine: MachineConfig) -> list[str]:
    """Return the devices that runs use at the same time; raise ConfigError if this machine has none such."""
    from bakeoff.compute.model.device import choose, visible

    if machine.devices != "auto":
        return named_devices(machine)
    first = str(choose(machine.device))
    kind = first.partition(":")[0]
    if ":" in machine.device or kind in ("cpu", "mps"):
        return [first]
    return [name for name in visible() if name.startswith(kind)]


def places_of(machine: MachineConfig) -> list[str]:
    """Return the places for one run at a time: devices, or as many with commas between them as share a run.

    Raises ConfigError if this machine has too few.
    """
    devices, shards = devices_of(machine), machine.shards
    if shards == 1 or devices == ["cpu"]:
        return devices
    if len(devices) < shards:
        raise ConfigError(
            f"machine.shards: {shards} devices are to share each run, and there is {listed(devices)}. Allowed here: at "
            f"most {len(devices)}. Try: fewer shards, protocol.quantize: nf4, or executor: ray on several machines"
        )
    return [",".join(devices[i : i + shards]) for i in range(0, len(devices) - shards + 1, shards)]


def at_once(machine: MachineConfig) -> int:
    """Return how many runs a device has at the same time, at most; raise ConfigError if this machine has none such."""
    devices = len(places_of(machine)) if machine.executor == "local" else machine.workers or 1  # Ray deals them out
    return -(-(machine.workers or devices) // devices)


def asked_apart(device: str) -> "Facts":
    """Return what a process of its own finds of an accelerator, in the environment of runs."""
    from bakeoff.compute.model.device import Facts

    words = child("compute.model.device", device)
    try:
        done = subprocess.run(
            words, env=process_environment(device), capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"machine.device: {device}: does not answer. Try: nvidia-smi, or --device cpu") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise SetupError(f"machine.device: {device}: cannot be used ({reason}). Try: nvidia-smi, or --device cpu")
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise SetupError(found["error"])
    return Facts(**found)

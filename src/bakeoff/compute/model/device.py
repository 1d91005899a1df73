"""The device of a run: which one, its memory, waiting for it, peaks and clocks.

All that bakeoff asks of an accelerator is asked here, of `torch.accelerator`: CUDA, ROCm (which torch calls cuda), XPU
and MPS are one to the others. `python -m bakeoff.compute.model.device DEVICE` prints `Facts` as JSON.
"""

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bakeoff.compute.model.precision import multiplies_fp16, native_precision
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import ConfigError, SetupError, listed
from bakeoff.library_errors import in_short, no_memory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Facts:
    """What a plan needs to know of a device; `name` is an accelerator's, None for the processor."""

    device: str
    name: str | None
    free_bytes: int
    total_bytes: int
    native_precision: str  # what `auto` chooses
    fast_fp16: bool  # multiplies fp16, and not bf16, faster than fp32


def visible() -> list[str]:
    """Return the names of the accelerators that torch finds; none is initialised, so this process may still fork."""
    built = torch.accelerator.current_accelerator()  # what this torch was built for
    return [f"{built.type}:{i}" for i in range(torch.accelerator.device_count())] if built else []


def choose(asked: str) -> torch.device:
    """Return the device that `machine.device` names; raise ConfigError if this machine has none such.

    `auto` is the first CUDA, ROCm or XPU device, else the processor: MPS, on which bakeoff was never measured, must be
    named.
    """
    here = visible()
    kind, _, index = asked.partition(":")
    if asked == "auto" and here and not here[0].startswith("mps"):
        return torch.device(here[0])
    if asked in ("auto", "cpu"):
        return CPU
    device = f"{kind}:{index or 0}"
    if device not in here:
        cure = "nvidia-smi, or a build of torch for this GPU (pytorch.org/get-started)" if not here else "one of these"
        raise ConfigError(
            f"machine.device: {asked}: torch {torch.__version__} finds no such device. Allowed here: "
            f"{listed(['auto', 'cpu', *here])}. Try: {cure}"
        )
    return torch.device(device)


def nth(asked: str, number: int) -> torch.device:
    """Return the device of the process of this number of those that share a run: the processor is shared by all.

    An accelerator belongs to one process: they are counted from the one that `machine.device` names.
    """
    first = choose(asked)
    if first.type == "cpu":
        return first
    here = [name for name in visible() if name.startswith(first.type)]
    place = (first.index or 0) + number
    if place >= len(here):
        raise ConfigError(
            f"machine.shards: this process sees {len(here)} devices ({listed(here)}), and one run takes more. Try: "
            "fewer shards, or machine.resources with as many GPUs"
        )
    return torch.device(here[place])


def use(device: torch.device) -> None:
    """Make a device the one that torch uses; raise SetupError if it cannot be used."""
    if device.type == "cpu":
        return
    try:
        torch.accelerator.set_device_index(device)
        compute_on(device)
    except RuntimeError as error:
        raise SetupError(
            f"machine.device: {device}: cannot be used ({in_short(error)}). Another process may have it to itself, or "
            "all its memory. Try: nvidia-smi, another device, or --device cpu; with WSL, or a virtual GPU: "
            "PYTORCH_ALLOC_CONF=expandable_segments:False"
        ) from None


def compute_on(device: torch.device) -> None:
    """Compute something on a device: its memory, or a kernel that this torch was built without, may fail only then."""
    torch.zeros(1, device=device).add(1).item()


def set_rounding(protocol: ProtocolConfig) -> None:
    """Let this process, which is a run's own, compute as the protocol says; no accelerator is initialised."""
    torch.use_deterministic_algorithms(protocol.deterministic)
    if protocol.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is used first
    set_products(protocol.tf32)


def set_products(tf32: bool) -> None:
    """Let products of bf16 and fp16 on GPUs add up in fp32; with `tf32`, factors of fp32 products are rounded there."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def initialized() -> bool:
    """Return whether this process has touched an accelerator, after which a child that it forks cannot use one."""
    built = torch.accelerator.current_accelerator()
    return built is not None and getattr(torch.get_device_module(built), "is_initialized", bool)()


def facts(device: torch.device) -> Facts:
    """Return the facts of a device, which is used for that; raise SetupError if it cannot be."""
    use(device)
    free, total = memory(device)
    module = torch.get_device_module(device)
    name = None if device.type == "cpu" else getattr(module, "get_device_name", str)(device)
    return Facts(str(device), name, free, total, native_precision(device), multiplies_fp16(device))


def random_state(device: torch.device) -> torch.Tensor:
    """Return the state of a device's random generator."""
    return torch.get_device_module(device).get_rng_state(device)


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Put a device's random generator into a state."""
    torch.get_device_module(device).set_rng_state(state, device)


def forked_random(device: torch.device = CPU) -> AbstractContextManager[None]:
    """Return a context after which random numbers are drawn as if nothing was drawn within: on the CPU and a device.

    Torch alone takes all devices that it sees, warns if they are several, and initialises them.
    """
    return torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type)


def memory(device: torch.device) -> tuple[int, int]:
    """Return the free and the total bytes of a device's memory; for the processor, this machine's."""
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return total - torch.mps.driver_allocated_memory(), total
    if device.type != "cpu":
        return torch.get_device_module(device).mem_get_info(device)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), total
    return total, total


def room(device: torch.device) -> int:
    """Return the bytes that this process can still take of a device: free ones, and those that torch keeps for it."""
    free = memory(device)[0]
    if counts_peaks(device):
        free += torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    return free


def wait(device: torch.device) -> None:
    """Wait until a device has finished its work; one that this process has not used yet is left alone."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


_PEAKS: dict[torch.device, int] = {}  # since `reset_peak`, up to when what is not counted changed
_UNCOUNTED: dict[torch.device, int] = {}  # bytes of each device's memory that are not the current run's own


def counts_peaks(device: torch.device) -> bool:
    """Return whether torch counts a peak of what is allocated on a device, whatever this process did there before."""
    return device.type in ("cuda", "xpu")


def leave_out(device: torch.device, size: int) -> None:
    """Leave so many bytes, which are allocated now, out of a device's peak from now on; 0: count everything."""
    if counts_peaks(device):
        so_far = peak_bytes(device)
        reset_peak(device)
        _PEAKS[device], _UNCOUNTED[device] = so_far, size


def reset_peak(device: torch.device) -> None:
    """Start a new peak of a device; for the processor, of this process's memory (Linux)."""
    _PEAKS.pop(device, None)
    if counts_peaks(device):
        torch.accelerator.reset_peak_memory_stats(device)
    # Not every kernel or sandbox has the file; the peak is then the process's own from its start.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak since `reset_peak`: an accelerator's allocated memory, else this process's resident memory.

    MPS counts no peak: its allocator gives nothing back, so what it holds comes near.
    """
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        counted = torch.accelerator.max_memory_allocated(device) - _UNCOUNTED.get(device, 0)
        return max(_PEAKS.get(device, 0), counted)
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def taken_by(device: torch.device, work: Callable[[], object]) -> int:
    """Return how many bytes of a device that counts peaks some work takes at most, beside those that are in use.

    The peak since `reset_peak` then has the work in it.
    """
    so_far, before = peak_bytes(device), torch.accelerator.memory_allocated(device)
    torch.accelerator.reset_peak_memory_stats(device)
    work()
    taken = torch.accelerator.max_memory_allocated(device) - before
    _PEAKS[device] = max(so_far, peak_bytes(device))
    return taken


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that the device, or on a CPU the machine, has no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or no_memory(error)


def release(device: torch.device) -> None:
    """Give back the memory of what is not referred to any more, also in circles: another base shall have room."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


class Clocks:
    """Seconds by phase; phases do not nest, and time between them is counted nowhere."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent within to phase `name`; work queued on the device is waited for."""
        wait(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            wait(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def add(self, other: Mapping[str, float]) -> None:
        """Add seconds by phase to these."""
        for name, seconds in other.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def main() -> None:
    """Print the facts of the device that the command line names, or why it cannot be used."""
    try:
        found = asdict(facts(torch.device(sys.argv[1])))
    except SetupError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

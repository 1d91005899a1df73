"""Which number format a device multiplies fastest: what `protocol.precision: auto` chooses (protocol rule 4)."""

import time
from functools import cache

import torch

# AMD GPUs whose matrix units multiply bf16: from MI100 and RX 7000 on; torch says that all of them can.
BF16_ARCHITECTURES = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
FP16_SINCE, BF16_SINCE = 7, 8  # major versions of NVIDIA's first GPUs whose matrix units multiply them
CLEARLY = 1.3  # between the factors of processors known (design/LOG.md): 0.5 without AMX on Intel's, 2 and more else
ROWS, WIDTH, REPEATS = 128, 1024, 6


def native_precision(device: torch.device) -> str:
    """Return bf16 if the hardware multiplies it natively, and faster than fp32; else fp32."""
    if device.type == "cpu":
        native = bf16_is_faster()
    elif device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        of_amd = getattr(properties, "gcnArchName", "").startswith(BF16_ARCHITECTURES)
        native = properties.major >= BF16_SINCE if is_nvidia(device) else of_amd
    else:
        native = device.type == "xpu" and torch.xpu.get_device_properties(device).has_bfloat16_conversions
    return "bf16" if native else "fp32"


def multiplies_fp16(device: torch.device) -> bool:
    """Return whether a device multiplies fp16, and not bf16, faster than fp32."""
    if native_precision(device) != "fp32" or not is_nvidia(device):
        return False
    return bool(torch.cuda.get_device_properties(device).major >= FP16_SINCE)


def is_nvidia(device: torch.device) -> bool:
    """Return whether a device is a CUDA one in truth, and not an AMD GPU."""
    return device.type == "cuda" and torch.version.hip is None


@cache
def bf16_is_faster() -> bool:
    """Return whether the processor multiplies bf16 clearly faster than fp32, by a measurement of some 20 ms.

    That it has instructions for it is not enough: Intel's without AMX take twice as long as for fp32.
    """
    has = torch.cpu.get_capabilities()
    if not (has.get("amx_bf16") or has.get("avx512_bf16")):
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the time of this thread is all, whatever else the machine does
    try:
        seconds = [[product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)] for _ in range(REPEATS)]
    finally:
        torch.set_num_threads(threads)
    fp32, bf16 = (min(column) for column in zip(*seconds, strict=True))
    return fp32 > CLEARLY * bf16


def product_seconds(dtype: torch.dtype) -> float:
    """Return the processor seconds of this thread that a linear layer takes in a number format."""
    rows, weight = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    start = time.thread_time()
    torch.nn.functional.linear(rows, weight)
    return time.thread_time() - start

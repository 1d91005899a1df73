"""The sections of the YAML that no result depends on: the machine, checkpoints and limits."""

import re
from typing import Literal

from pydantic import ByteSize, Field, field_validator

from bakeoff.config.sections import Section
from bakeoff.errors import did_you_mean

DEVICES = ("auto", "cpu", "cuda", "cuda:1", "xpu", "mps")


class MachineConfig(Section):
    """What runs use of this machine."""

    device: str = Field(
        "auto",
        description="device of the runs: auto (the first CUDA, ROCm or XPU GPU that torch finds, else the processor), "
        "cpu, cuda (also ROCm), cuda:1 (the second GPU), xpu or mps",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
            raise ValueError(f"unknown device '{value}'.{did_you_mean(value, DEVICES)}")
        return value


class SafetyConfig(Section):
    """Checkpoints and limits of runs. Nothing here changes a result."""

    checkpoint_seconds: float = Field(
        60, gt=0, description="seconds of training between checkpoints; every validation writes one, too"
    )
    checkpoint_budget: Literal["auto"] | ByteSize = Field(
        "auto",
        description="disk space for the last two checkpoints of one run: a size (4GB), or auto (a quarter of what is "
        "free)",
    )
    stall_seconds: float = Field(
        1800,
        gt=0,
        description="a run that makes no progress for this many seconds is ended and counts as failed; the next run "
        "starts",
    )
    memory_limit: ByteSize | None = Field(
        None, description="maximum memory of a run's process (8GB), on Linux; null: no limit"
    )

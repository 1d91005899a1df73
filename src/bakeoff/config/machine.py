"""The sections of the YAML that no result depends on: the machine, checkpoints and limits."""

import re
from typing import Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

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

    devices: Literal["auto"] | list[int] = Field(
        "auto",
        description="indices of the GPUs that runs use at the same time, [0, 1]; auto: all that torch finds, or the "
        "one that machine.device names",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="how many runs are carried out at the same time; null: one on each device. On a processor each has "
        "an equal share of the cores. More than one per device is faster for small models; their seconds are then "
        "measured beside other runs",
    )

    @property
    def first_device(self) -> str:
        """The device of the first run, as `device` names one."""
        if self.devices == "auto":
            return self.device
        return f"{'cuda' if self.device == 'auto' else self.device}:{self.devices[0]}"

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
            raise ValueError(f"unknown device '{value}'.{did_you_mean(value, DEVICES)}")
        return value

    @model_validator(mode="after")
    def _indices(self) -> Self:
        if self.devices == "auto":
            return self
        if not self.devices or min(self.devices) < 0 or len({*self.devices}) < len(self.devices):
            raise ValueError("devices: expected different indices of GPUs, for example [0, 1]")
        if self.device not in ("auto", "cuda", "xpu"):
            raise ValueError(f"devices: {self.device} is one device. Try: device: cuda, or without devices")
        return self


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

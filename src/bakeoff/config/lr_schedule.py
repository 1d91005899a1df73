"""The learning rate at each step, the same for every method."""

import math

from bakeoff.config.sections import ProtocolConfig


def schedule_of(optimizer: str, protocol: ProtocolConfig) -> ProtocolConfig:
    """Return the protocol with the schedule that an entry with this optimizer has: schedule-free knows no decay."""
    return protocol.model_copy(update={"schedule": "constant"}) if optimizer == "schedule_free" else protocol


def lr_multiplier(step: int, steps: int, protocol: ProtocolConfig) -> float:
    """Return the learning rate's multiplier in step `step` (from 0): a linear warm-up, then the schedule towards 0."""
    warmup = round(protocol.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[protocol.schedule]

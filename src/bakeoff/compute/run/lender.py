"""The base that runs of one process have, one after the other: each gets it as it was loaded.

Nothing can be forked once an accelerator was touched, so runs there share a process, and load the base once. Between
two uses it is put back to what it was (`original`), and its hashes must be those that it had; else it is loaded anew.
"""

from dataclasses import replace

import torch
from torch import nn

from bakeoff.compute.model.base import Base
from bakeoff.compute.model.device import leave_out, memory, release, use
from bakeoff.compute.model.original import Original
from bakeoff.compute.run.checks import fingerprints
from bakeoff.compute.run.resident import Resident, Wanted, tried

# Of a device's whole memory: what is held of a base beside a run that has changed it, and beside one that decodes it in
# fp32. Then it is all that is held, and its copies take twice as much: together three quarters at most.
HELD_SHARE, HELD_IN_DECODING = 1 / 16, 1 / 4


class Lender:
    """Lends a base on one device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.resident: Resident | None = None
        self.original: Original | None = None

    def lend(self, wanted: Wanted) -> tuple[Resident, bool]:
        """Return the base that a run wants, and whether it was loaded now."""
        use(self.device)  # before that torch counts no memory
        leave_out(self.device, 0)
        if self.original:
            self.original.put_back()
        release(self.device)
        resident = self.resident
        if resident and resident.wanted == wanted and self.is_what_it_was(resident):
            return resident, False
        resident = None
        self.let_go()
        release(self.device)
        loaded = tried(wanted, self.device)
        self.resident = replace(loaded, base=replace(loaded.base, lent=True))
        self.original = Original(loaded.base.model)
        return self.resident, True

    def is_what_it_was(self, resident: Resident) -> bool:
        """Return whether each of a base's tensors has the hash that it had after loading."""
        return resident.marks is not None and fingerprints(resident.base.model) == resident.marks.hashes

    def settle(self, adapted: nn.Module, decoding: bool = False) -> None:
        """Do not count what is held beside an adapted model as the run's memory; let go of the base if it is much."""
        beside = self.original.beside(adapted) if self.original else 0
        if beside > (HELD_IN_DECODING if decoding else HELD_SHARE) * memory(self.device)[1]:
            self.let_go()
            beside = 0
        leave_out(self.device, beside)

    def before_decoding(self, base: Base, precision: str) -> Base:
        """Return the base as it may be decoded: not lent any more if copies of its weights would take too much."""
        copied = sum(weight.nbytes for weight in base.model.parameters()) if precision == "fp32" else 0
        if copied <= HELD_IN_DECODING * memory(self.device)[1]:
            return base
        self.let_go()
        return replace(base, lent=False)

    def let_go(self) -> None:
        """Forget the base: the next run's is loaded anew."""
        self.resident = self.original = None


def switches() -> tuple[object, ...]:
    """Return what of torch's state a run could leave changed for the runs after it in the same process.

    What the protocol asks for is not among it: each run sets that itself.
    """
    attention = (f"{kind}_sdp_enabled" for kind in ("flash", "mem_efficient", "math", "cudnn"))
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.is_autocast_enabled("cpu"),
        torch.get_float32_matmul_precision() == "medium",  # high is what tf32 makes of it
        torch.get_default_device(),
        *(getattr(torch.backends.cuda, name)() for name in attention),
        len(torch.nn.modules.module._global_forward_hooks),
        len(torch.nn.modules.module._global_forward_pre_hooks),
    )

"""How many positions of a batch fit an accelerator at once, by what one row of it is seen to take."""

from collections.abc import Callable

import torch

from bakeoff.compute.model.device import memory, random_state, room, set_random_state, taken_by

# Of a device's whole memory, which training may fill: the parts of a batch, and with them how a run rounds, shall not
# depend on what else is on the device, as long as there is room for that.
SHARE = 0.9
MOMENTS = 2  # of AdamW, each as large as a gradient; there from the first step on


def positions_that_fit(
    device: torch.device,
    gradient_bytes: int,
    backward: Callable[[], object],
    positions: int,
    moments_there: bool,
    beside: int = 0,
) -> int:
    """Return how many positions go forward and backward at once without running out of memory, at least those of a row.

    `backward` computes the gradients of a row of so many `positions`, which take `gradient_bytes`; random numbers that
    it draws are drawn again later. The optimizer's moments get room too, unless they are there already. With other runs
    `beside` this one, each has an equal part of the device.
    """
    states = torch.get_rng_state(), random_state(device)
    taken = taken_by(device, backward)
    torch.set_rng_state(states[0])
    set_random_state(device, states[1])
    each = max(1, taken - gradient_bytes) / positions
    share = int(SHARE * memory(device)[1]) // (beside + 1)
    left = min(share - torch.accelerator.memory_allocated(device), room(device))
    left -= 0 if moments_there else MOMENTS * gradient_bytes
    return max(positions, int(left / each))

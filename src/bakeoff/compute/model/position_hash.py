"""A hash of a tensor's bytes and their order, computed where the tensor lies, at a third of the time of a SHA-256.

It tells whether a tensor is what it was, where nobody tries to deceive; what goes to disk has a SHA-256. An XOR of
words, as `torch.hash_tensor` is, sees neither their order nor equal changes of an even number of equal words.
"""

from functools import cache

import torch
from torch.nn.functional import pad

ODD = -7046029254386353131  # 2**64 divided by the golden ratio, as a signed number
# At once: as stay in a processor's cache; as keep an accelerator busy, whose multipliers stay in its memory.
CPU_WORDS, DEVICE_WORDS = 2**17, 2**20


def position_hash(tensor: torch.Tensor) -> int:
    """Return a number that changes if a byte does, if two unequal words change places, or if zeros are added.

    Each 64-bit word is multiplied by an odd number of its place, so that equal words count differently; the product's
    halves are mixed, else two flipped signs would cancel; the sum wraps.
    """
    words = words_of(tensor)
    step = CPU_WORDS if tensor.device.type == "cpu" else DEVICE_WORDS
    while len(words) > 1:
        words = torch.stack([mixed(part, step) for part in words.split(step)])
    return tensor.nbytes + int(words.sum())


def words_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes as 64-bit words, filled up with zeros."""
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if len(plain) % 8 or plain.storage_offset() % 8:
        plain = pad(plain, (0, -len(plain) % 8)).clone()
    return plain.view(torch.int64)


def mixed(words: torch.Tensor, most: int) -> torch.Tensor:
    """Return the sum of up to `most` words, each multiplied and mixed, as a tensor without dimensions."""
    products = words * multipliers(most, words.device)[: len(words)]
    products ^= products >> 32
    return products.sum()


@cache
def multipliers(count: int, device: torch.device) -> torch.Tensor:
    """Return an odd number for each place."""
    return (2 * torch.arange(count, device=device) + 1) * ODD

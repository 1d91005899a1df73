"""Compiles a model's blocks one by one, for training alone: fewer kernels, where launching them takes longest."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from bakeoff.compute.model.base import inner
from bakeoff.errors import SetupError
from bakeoff.methods.last_layers import find_blocks

BACKEND = "inductor"


@contextmanager
def compiled_blocks(adapted: nn.Module, wanted: bool) -> Iterator[None]:
    """Compile the decoder's blocks when they are called; afterwards they are called as they are.

    One block's code serves all blocks of its kind, and all lengths. A model whose blocks are not found stays as it is.
    """
    blocks: list[nn.Module] = []
    if wanted:
        try:
            blocks = [*find_blocks(inner(adapted))[0]]
        except SetupError:  # an architecture of another build
            blocks = []
    try:
        for block in blocks:
            block.compile(dynamic=True, backend=BACKEND)
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None

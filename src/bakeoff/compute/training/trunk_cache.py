"""The trunk cache: the outputs of the frozen blocks below the lowest trained block, computed once per example.

These outputs never change while an entry trains, so every epoch, seed and entry with the same cut reads them from one
file. The trunk of an encoder-decoder is its whole encoder, because blocks of a decoder pass each other more than their
output. The file is in the folder of one bakeoff, in which base, examples and template are fixed. Its name has what can
differ within it: split, cut, precision and how the base is packed.
"""

import fcntl
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import nn

from bakeoff.compute.model.base import Base, inner
from bakeoff.compute.model.device import out_of_memory
from bakeoff.compute.model.forward import autocast, prompt_config, soft_prompt_config
from bakeoff.compute.training.batches import evaluation_batches
from bakeoff.compute.training.loss import Serve, batch_of, evaluating, model_inputs, target_losses
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.token_file import lengths_of
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.methods import Method
from bakeoff.methods.last_layers import find_blocks
from bakeoff.store.files import opened
from bakeoff.store.run_folder import TRUNK

FREE_SHARE = 0.25  # of the disk's free space, where no budget is given
# Relative, of a batch's loss: batches of another shape round otherwise.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
CHECKED = 4  # rows, from all over the file


@dataclass
class Trunk:
    """One split's trunk outputs on disk: rows of (tokens, width), one after the other."""

    file: Path
    blocks: Sequence[nn.Module]
    offsets: NDArray[numpy.int64]
    width: int
    dtype: torch.dtype
    kind: type  # of what the last block puts out: a tensor, a tuple, a transformers output
    device: torch.device

    def read(self, members: Sequence[int]) -> torch.Tensor:
        """Return the members' outputs, right-padded with zeros: (batch, seq, width).

        The file is read and not mapped: mapped pages would count as this process's memory, though the kernel may
        drop them at any time.
        """
        lengths = [int(self.offsets[i + 1] - self.offsets[i]) for i in members]
        pinned = self.device.type == "cuda"  # a GPU copies from such memory by itself
        hidden = torch.empty(len(members), max(lengths), self.width, dtype=self.dtype, pin_memory=pinned)
        row_bytes = self.width * self.dtype.itemsize
        with self.file.open("rb", buffering=0) as stream:
            for row, i, length in zip(hidden, members, lengths, strict=True):
                row[length:] = 0
                if (
                    os.preadv(stream.fileno(), [as_bytes(row[:length])], int(self.offsets[i]) * row_bytes)
                    < length * row_bytes
                ):
                    raise OSError(f"{self.file} is cut short")
        return hidden.to(self.device, non_blocking=pinned)

    @contextmanager
    def serving(self, members: Sequence[int]) -> Iterator[None]:
        """Let the trunk's first block return the stored outputs of `members`, and the other blocks pass them on."""
        stored: Any = self.read(members)
        if self.kind is not torch.Tensor:
            stored = (stored,) if self.kind is tuple else self.kind(last_hidden_state=stored)

        def give(*_: Any, **__: Any) -> Any:
            return stored

        try:
            for block in self.blocks:
                block.forward = give
            yield
        finally:
            for block in self.blocks:
                del block.forward


def as_bytes(rows: torch.Tensor) -> memoryview:
    """Return a contiguous tensor's own memory."""
    return memoryview(rows.view(torch.uint8).numpy())  # type: ignore[arg-type]


def cut_of(adapted: nn.Module) -> int:
    """Return how many blocks are below everything that trains; 0 if a trained part acts before or in the first."""
    model = inner(adapted)
    if prompt_config(adapted) is not None:
        return 0
    try:
        blocks, norm = find_blocks(model)
    except SetupError:  # an architecture of another build
        return 0
    above = {*(norm.parameters() if norm else ()), *model.get_output_embeddings().parameters()}
    above -= {*model.get_input_embeddings().parameters()}  # of a tied head
    inside = {p for block in blocks for p in block.parameters()}
    if any(p.requires_grad and p not in above and p not in inside for p in adapted.parameters()):
        return 0
    trained = [i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    return min(trained, default=len(blocks))


def stores_trunk(method: Method, protocol: ProtocolConfig) -> bool:
    """Return whether a trunk's outputs are stored; blocks that the method has changed cannot serve other methods."""
    return protocol.trunk_cache != "off" and method.keeps_base


def find_trunk(adapted: nn.Module) -> tuple[str, list[nn.Module]]:
    """Return the trunk's name and its modules, the last of which outputs what is stored."""
    model = inner(adapted)
    if not model.config.is_encoder_decoder:
        cut = cut_of(adapted)
        return str(cut), list(find_blocks(model)[0])[:cut] if cut else []
    encoder = model.get_encoder()
    trained = soft_prompt_config(adapted) is not None or any(p.requires_grad for p in encoder.parameters())
    return "encoder", [] if trained else [encoder]


def serve_trunks(
    base: Base,
    adapted: nn.Module,
    tokens: Mapping[str, Sequence[Tokens]],
    folder: Path,
    protocol: ProtocolConfig,
    storing: Callable[[], object] = bool,
) -> dict[str, Serve]:
    """Return functions that serve the frozen blocks' stored outputs, by split; empty if there is no such trunk.

    `storing` is called if they are not stored yet, which takes a forward pass over all examples.
    """
    size = protocol.trunk_cache
    budget = None if isinstance(size, str) else int(size)
    serve: dict[str, Serve] = {}
    for split in ("train", "validation"):
        try:
            trunk = open_trunk(base, adapted, tokens[split], folder / split, budget, 2 * protocol.batch_size, storing)
        except (TrunkError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            print(f"trunk cache not used: {error}", file=sys.stderr)
            return {}
        if trunk:
            serve[split] = trunk.serving
    return serve


def open_trunk(
    base: Base,
    adapted: nn.Module,
    rows: Sequence[Tokens],
    stem: Path,
    budget: int | None,
    batch_size: int,
    storing: Callable[[], object] = bool,
) -> Trunk | None:
    """Return the trunk of `rows`, from its file or built now; None if there is no trunk, or no room.

    `stem` is the file's path without cut and precision; `budget` is in bytes and for all files of its folder, None for
    FREE_SHARE of the free space. Raises TrunkError if what is stored does not give the loss of the whole model.
    """
    name, blocks = find_trunk(adapted)
    if not blocks:
        return None
    output, kind = trunk_output(base, adapted, blocks, rows[:1])
    if output.requires_grad:  # what trains acts before or in these blocks, whatever the modules' names say
        return None
    causal = base.decoder_start is None
    lengths = lengths_of(rows)
    offsets = numpy.zeros(len(rows) + 1, numpy.int64)
    numpy.cumsum(lengths.totals - 1 if causal else lengths.prompts, out=offsets[1:])
    packed = "" if base.quantize == "none" else f"-{base.quantize}"
    file = stem.with_name(f"{stem.name}-{name}-{base.precision}{packed}.bin")
    trunk = Trunk(file, blocks, offsets, output.shape[-1], output.dtype, kind, base.device)
    needed = int(offsets[-1]) * trunk.width * trunk.dtype.itemsize
    batches = evaluation_batches(lengths.totals, batch_size)
    file.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(opened(file.parent / ".lock", os.O_WRONLY | os.O_CREAT), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists() or file.stat().st_size != needed:
            if needed > room(file.parent, budget):
                return None
            storing()
            build(base, adapted, trunk, rows, batches)
    check(base, adapted, trunk, rows, sorted({i * len(rows) // CHECKED for i in range(CHECKED)}))
    return trunk


def room(folder: Path, budget: int | None) -> float:
    """Return how many bytes another file in the folder may have, after removing what a killed build has left there."""
    for left in folder.glob("*.tmp"):
        if re.fullmatch(TRUNK, left.name):
            left.unlink()
    if budget is None:
        return FREE_SHARE * shutil.disk_usage(folder).free
    return budget - sum(file.stat().st_size for file in folder.glob("*.bin"))


class TrunkError(Exception):
    """The model with a stored trunk does not compute what the whole model computes."""


def mean(losses: torch.Tensor) -> float:
    """Return the mean of losses, in numbers that MPS does not have."""
    return float(losses.cpu().double().mean())


def check(base: Base, adapted: nn.Module, trunk: Trunk, rows: Sequence[Tokens], members: Sequence[int]) -> None:
    """Raise TrunkError unless a batch has the same loss with the stored trunk as without."""
    batch = batch_of(base, [rows[i] for i in members])
    with torch.no_grad(), evaluating(adapted):
        plain = mean(target_losses(base, adapted, batch))
        try:
            stored = mean(target_losses(base, adapted, batch, trunk.serving(members)))
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            raise TrunkError(f"this architecture does not allow it ({error})") from error
    if not math.isclose(plain, stored, rel_tol=TOLERANCE[base.precision]):
        raise TrunkError(f"loss {stored} with the stored trunk, {plain} without")


def build(
    base: Base, adapted: nn.Module, trunk: Trunk, rows: Sequence[Tokens], batches: Sequence[Sequence[int]]
) -> None:
    """Compute the trunk's outputs of every row, and put the complete file in its place."""
    temporary = trunk.file.with_suffix(".tmp")
    row_bytes = trunk.width * trunk.dtype.itemsize
    try:
        with temporary.open("wb", buffering=0) as stream:
            for members in batches:
                with torch.no_grad():
                    hidden = trunk_output(base, adapted, trunk.blocks, [rows[i] for i in members])[0].cpu()
                for row, i in zip(hidden, members, strict=True):
                    place = int(trunk.offsets[i])
                    length = int(trunk.offsets[i + 1]) - place
                    written = os.pwrite(stream.fileno(), as_bytes(row[:length].contiguous()), place * row_bytes)
                    if written < length * row_bytes:
                        raise OSError(f"no room for {trunk.file}")
            os.fsync(stream.fileno())
        temporary.replace(trunk.file)
    finally:
        temporary.unlink(missing_ok=True)


class Reached(Exception):  # noqa: N818
    """What was wanted of a forward pass is known; the rest need not run."""


def trunk_output(
    base: Base, adapted: nn.Module, blocks: Sequence[nn.Module], rows: Sequence[Tokens]
) -> tuple[torch.Tensor, type]:
    """Return the output of the last of `blocks` for the rows, (batch, seq, width), and the module that makes it."""
    caught: list[Any] = []

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output)
        raise Reached

    handle = blocks[-1].register_forward_hook(catch)
    try:
        with suppress(Reached), autocast(base):
            inner(adapted)(**model_inputs(adapted, batch_of(base, rows)), use_cache=False)
    finally:
        handle.remove()
    output = caught[0]
    return (output if isinstance(output, torch.Tensor) else output[0]), type(output)

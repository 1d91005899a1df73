"""Weights that lie in parts on several devices: each block's are put together while it computes (FSDP2).

Blocks hold nearly all of a large model's weights. What is outside of them (embeddings, head), and what a method has
added, each process has whole: it is called outside of the model's forward pass, too. Gradients of both are summed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from bakeoff.compute.model.base import Base, inner, trainable
from bakeoff.compute.model.team import Team
from bakeoff.errors import SetupError

SKIPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")  # a config's probability that a block is skipped


def stacks_of(model: PreTrainedModel) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Return the modules that are called with text, each with its blocks, in the order in which these compute.

    A causal model is one, an encoder-decoder has two. Raises SetupError if one has no list of blocks, or skips some.
    """
    if skips := [name for name in SKIPS if getattr(model.config, name, None)]:
        raise SetupError(
            f"machine.shards: {type(model).__name__} skips blocks at random while it trains ({skips[0]}), each process "
            "others, so that they would wait for each other. Try: shard_weights: false"
        )
    roots: list[Any] = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model]
    found = []
    for root in roots:
        lists = [module for module in root.modules() if isinstance(module, nn.ModuleList) and len(module)]
        if not lists:
            raise SetupError(
                f"machine.shards: {type(model).__name__} has no list of blocks to share out. Try: shard_weights: false"
            )
        found.append((root, [*max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))]))
    return found


def spread(base: Base, adapted: nn.Module) -> None:
    """Spread an adapted model over the team's devices: it is then called as before, by all at the same time.

    Of trained weights all processes have rank 0's values. Nothing else happens if the weights are not to be sharded.
    """
    team, model = base.team, inner(adapted)
    if team.sharded:
        stacks, mesh = stacks_of(model), DeviceMesh(base.device.type, list(range(team.size)))
        in_blocks = {id(p): p for _, blocks in stacks for block in blocks for p in block.parameters()}
        outside = {id(p) for p in outside_of(adapted, [block for _, blocks in stacks for block in blocks])}
        ignored = {p for i, p in in_blocks.items() if p not in base.own or i in outside}
        for root, blocks in stacks:
            for block in blocks:
                block.register_forward_hook(without_views)  # before that of FSDP
                fully_shard(block, mesh=mesh, ignored_params=ignored)
            rest = {p for p in root.parameters() if not isinstance(p, DTensor)}
            fully_shard(root, mesh=mesh, ignored_params=rest)
            for below, block in pairwise([blocks[0], *blocks]):
                assert isinstance(block, FSDPModule)
                assert isinstance(below, FSDPModule)
                # Else it is the one called before this one, be it for a text that not all processes had to read. The
                # lowest one's is itself, which is there: none.
                block.set_modules_to_backward_prefetch([below])
                block.set_gradient_divide_factor(1.0)  # sums: each process has its share of one mean
                block.set_force_sum_reduction_for_comms(True)  # gloo cannot do both at once
                block.set_reduce_scatter_unused_params(True)  # of experts that one process has met alone
        move_rest(adapted, base.device)
        team.turns = Turns(team, stacks)
    team.start_alike(trainable(adapted).values())


def without_views(block: nn.Module, inputs: Any, output: Any) -> Any:
    """Return what a block puts out with copies in place of views, in which a later change would lose FSDP's hooks."""
    return tree_map(lambda x: x.clone() if torch.is_tensor(x) and x._is_view() else x, output)


def outside_of(adapted: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    """Yield the weights that modules outside of the blocks have, also those that they share with blocks."""
    inside = {module for block in blocks for module in block.modules()}
    for module in adapted.modules():
        if module not in inside:
            yield from module.parameters(recurse=False)


def move_rest(adapted: nn.Module, device: torch.device) -> None:
    """Move to a device what every process has whole."""
    for module in adapted.modules():
        for weight in module.parameters(recurse=False):
            if not isinstance(weight, DTensor):
                weight.data = weight.data.to(device)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


class Turns:
    """Lets processes call a sharded model each as often as it needs: blocks are put together by all at once.

    Before each call all say which stack of blocks they want. Who wants none, or a later one, puts its blocks together
    too, and computes nothing.
    """

    def __init__(self, team: Team, stacks: Sequence[tuple[nn.Module, list[nn.Module]]]):
        self.team, self.active = team, False
        self.blocks: list[list[Any]] = [blocks for _, blocks in stacks]
        for number, (root, _) in enumerate(stacks):
            root.register_forward_pre_hook(partial(self.before_call, number))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Take turns from here on; at the end, until nobody wants one any more."""
        self.active = True
        try:
            yield
            self.help_until(None)
        finally:
            self.active = False

    def before_call(self, stack: int, *_: Any) -> None:
        """Wait for the turn of this stack."""
        if self.active:
            self.help_until(stack)

    def help_until(self, stack: int | None) -> None:
        """Put together the blocks that others want until it is this stack's turn; None: until nobody wants any."""
        while (turn := self.next(stack)) != stack:
            assert turn is not None
            for block in self.blocks[turn]:
                assert isinstance(block, FSDPModule)
                block.unshard()
                block.reshard()

    def next(self, stack: int | None) -> int | None:
        """Tell all others what this process wants, and return the first stack that anyone wants."""
        wanted = torch.tensor([float(stack == number) for number in range(len(self.blocks))])
        distributed.all_reduce(wanted, distributed.ReduceOp.MAX, group=self.team.control)
        return next((number for number, anyone in enumerate(wanted.tolist()) if anyone), None)

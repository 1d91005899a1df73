"""What cannot be shared out over several devices, refused by name before anything runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bakeoff.config.config import Config
from bakeoff.errors import ConfigError, SetupError, listed
from bakeoff.methods.base_weights import BaseWeights
from bakeoff.tuning.entries import Entry

if TYPE_CHECKING:
    from torch import nn

SHAREABLE = ("adamw", "muon")  # optimizers that change a weight of which each device has a part
WHOLE = "Try: machine.shard_weights: false, which leaves the base whole on each device"


def check_shards(config: Config, entries: Mapping[str, Entry]) -> None:
    """Raise ConfigError if the weights of a run's base are to be shared out, and something in the config cannot be."""
    if not shares_weights(config):
        return
    protocol = config.protocol
    if protocol.precision == "fp16":
        raise ConfigError(
            "machine.shards: with protocol.precision: fp16 each device would find other gradients out of range. Try: "
            "precision: bf16 or fp32, or machine.shard_weights: false"
        )
    if protocol.compile_blocks:
        raise ConfigError(f"machine.shards: blocks whose weights are shared out cannot be compiled. {WHOLE}")
    if protocol.quantize != "none":
        raise ConfigError(
            f"machine.shards: weights that are packed in few bits (protocol.quantize: {protocol.quantize}) cannot be "
            f"shared out. {WHOLE}"
        )
    for name, entry in entries.items():
        if entry.quantize != "none":
            raise ConfigError(
                f"entries.{name}: its base is packed in few bits ({entry.quantize}), which machine.shards cannot share "
                f"out. {WHOLE}"
            )
        for method in entry.methods():
            if isinstance(method, BaseWeights) and method.optimizer not in SHAREABLE:
                raise ConfigError(
                    f"entries.{name}: optimizer: {method.optimizer} cannot change weights that machine.shards shares "
                    f"out. Allowed: {listed([*SHAREABLE])}. {WHOLE}"
                )


def check_gpus(resources: Mapping[str, float], shards: int) -> None:
    """Raise SetupError if what a run takes of a cluster has GPUs, but not as many for each of its processes."""
    if shards > 1 and resources.get("GPU", shards) % shards:
        raise SetupError(
            f"machine.resources: GPU {resources['GPU']:g} for machine.shards: {shards}, each of which has a GPU. Try: "
            f"GPU: {shards}"
        )


def shares_weights(config: Config) -> bool:
    """Return whether the devices of a run each hold a part of its base."""
    return config.machine.shards > 1 and config.machine.shard_weights


def check_decoding(config: Config, precision: str) -> None:
    """Raise ConfigError if outputs are to be decoded in another precision than that of weights that are shared out."""
    asked = config.generation.precision
    if shares_weights(config) and asked not in ("auto", precision):
        raise ConfigError(
            f"generation.precision: {asked}: weights that machine.shards shares out stay as they are trained, in "
            f"{precision}. Allowed: auto or {precision}. {WHOLE}"
        )


def block_counts(adapted: "nn.Module", own: "set[nn.Parameter]") -> dict[str, int]:
    """Return how many weights of an adapted shape machine.shards shares out, and how many of these train.

    They are those of the base's `own` weights that are in blocks. Raises SetupError if the base has no list of blocks.
    """
    from bakeoff.compute.model.base import inner
    from bakeoff.compute.model.sharding import stacks_of

    blocks = [block for _, stack in stacks_of(inner(adapted)) for block in stack]
    weights = {p for block in blocks for p in block.parameters()} & own
    sizes = {"block_parameters": weights, "trained_block_parameters": {p for p in weights if p.requires_grad}}
    return {name: sum(p.numel() for p in group) for name, group in sizes.items()}

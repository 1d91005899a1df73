"""The least memory of a run, computed from counts: what does not fit a GPU is refused before anything runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bakeoff.analysis.columns import size
from bakeoff.errors import SetupError
from bakeoff.methods import method_class
from bakeoff.methods.base_weights import BaseWeights
from bakeoff.store.records import Quantize

if TYPE_CHECKING:
    from bakeoff.compute.model.device import Facts

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
TRAINED_BYTES = 8  # an fp32 weight and its gradient
CONTEXT_BYTES = 300 * 2**20  # of an accelerator's driver and libraries in a process that uses it: the least seen
LARGE = 2 * 10**9  # weights: their fp32 copies take 8 GB, and their fp32 products a GPU's slowest units


@dataclass(frozen=True)
class Sizes:
    """What takes memory in an adapted model: its weights, the bytes of packed ones, its cache, and its optimizer."""

    total: int
    trained: int
    packed: int = 0
    packed_bytes: int = 0
    cache: int = 0  # numbers that the cache of the longest row holds
    optimizer_bytes: int = 0  # that it keeps of the trained weights


@dataclass(frozen=True)
class Needs:
    """The least memory of each entry in bytes, and the precision of decoding that follows from the largest."""

    decoding: str
    least: dict[str, int]
    findings: list[str]


def needs(
    asked: str, precision: str, shapes: dict[str, Any], max_tokens: int, device: "Facts", shards: int = 1
) -> Needs:
    """Return what runs take; `asked` is the config's precision of decoding, `shapes` are the counts of the entries.

    If so many `shards` share out the weights of blocks, it is what each of their devices takes.
    """
    cache = max_tokens * shapes["cache_values"]
    sizes = {name: sizes_of(counts, cache, shards) for name, counts in shapes["entries"].items()}
    unpacked = max(row.total - row.packed for row in sizes.values())
    decoding = decoding_precision(asked, precision, unpacked, device)
    least = {name: least_bytes(row, precision, decoding, device) for name, row in sizes.items()}
    return Needs(decoding, least, decoding_findings(asked, decoding, unpacked))


def sizes_of(counts: dict[str, Any], cache: int, shards: int = 1) -> Sizes:
    """Return what of an entry takes memory, by its counts; `cache` numbers are in the cache of its longest row."""
    total, trained, packed = (counts[f"{kind}_parameters"] for kind in ("total", "trainable", "packed"))
    kept, elsewhere = counts.pop("optimizer_bytes"), 1 - 1 / shards
    there = int(elsewhere * counts.pop("block_parameters", 0))
    trained_there = int(elsewhere * counts.pop("trained_block_parameters", 0))
    kept -= kept * trained_there // max(1, trained)
    return Sizes(total - there, trained - trained_there, packed, counts.pop("packed_bytes"), cache, kept)


def decoding_precision(asked: str, precision: str, weights: int, device: "Facts") -> str:
    """Return the precision of decoding, for all entries: as asked, else fp32 for what is small and fits.

    `precision` is that of the frozen weights; `weights` is the largest number of unpacked ones of any entry.
    """
    if asked != "auto":
        return asked
    too_large = weights * WEIGHT_BYTES["fp32"] + context_bytes(device) > device.total_bytes
    return precision if too_large or weights > LARGE else "fp32"


def decoding_findings(asked: str, decoding: str, weights: int) -> list[str]:
    """Return a finding if `auto` does not decode in fp32."""
    if asked != "auto" or decoding == "fp32":
        return []
    why = f"its {weights:,} weights in fp32 would take {size(WEIGHT_BYTES['fp32'] * weights)}"
    return [
        f"outputs are decoded in {decoding}, because {why}. A token that is almost as likely as another may depend on "
        "the other documents in its batch. To change that: generation.precision: fp32"
    ]


def least_bytes(sizes: Sizes, precision: str, decoding: str, device: "Facts") -> int:
    """Return what a run takes at least: the larger of training and decoding, without activations and logits.

    Training has weights, gradients, optimizer and the best weights; decoding has weights and one row's cache.
    """
    frozen = sizes.total - sizes.packed - sizes.trained
    training = frozen * WEIGHT_BYTES[precision] + sizes.trained * (TRAINED_BYTES + best_bytes(sizes.trained, device))
    training += sizes.optimizer_bytes
    written = (sizes.total - sizes.packed + sizes.cache) * WEIGHT_BYTES[decoding]
    return max(training, written) + sizes.packed_bytes + context_bytes(device)


def best_bytes(trained: int, device: "Facts") -> int:
    """Return the bytes of a trained weight's best value on a device: large ones are in the host's memory."""
    from bakeoff.compute.training.best import BEST_BYTES

    return 4 if device.device == "cpu" or 4 * trained <= BEST_BYTES else 0


def context_bytes(device: "Facts") -> int:
    """Return what a process that uses a device takes of its memory for that alone."""
    return 0 if device.device == "cpu" else CONTEXT_BYTES


class Weighed(Protocol):
    """An entry, of a plan that is made or of one that is read."""

    @property
    def method(self) -> str:
        """The name of its method."""

    @property
    def quantize(self) -> Quantize:
        """How its base is stored."""


def cures(entries: Iterable[Weighed], decoding: str, on_gpu: bool, activations: bool = False) -> str:
    """Return what makes runs of these entries smaller; where `activations` are in the way, also what these follow."""
    packs = any(row.quantize == "none" and not issubclass(method_class(row.method), BaseWeights) for row in entries)
    found = ["a smaller protocol.batch_size or max_tokens", "protocol.gradient_checkpointing: true"] * activations
    found += ["protocol.quantize: nf4"] * packs + ["generation.precision: bf16"] * (decoding == "fp32")
    found += ["machine.shards, if there are several GPUs"] * on_gpu
    return f"{', '.join([*found, 'a method that trains fewer weights'])}, or a smaller base"


def check_room(
    least: Mapping[str, int], decoding: str, device: "Facts", entries: Mapping[str, Weighed], at_once: int = 1
) -> None:
    """Raise SetupError if an entry cannot fit into an accelerator's memory; `least` has each entry's bytes.

    Nor can runs of even the smallest entry if they are more than fit `at_once`, or what other processes have left. A
    processor's memory can be exceeded: the system moves pages to the disk, slowly; the plan only says so.
    """
    if device.device == "cpu":
        return
    name, most = max(least.items(), key=lambda item: item[1])
    fewest = min(least.values())
    if most > device.total_bytes:
        raise SetupError(
            f"entries.{name}: does not fit: it takes at least {size(most)} of memory, "
            f"{size(most - device.total_bytes)} more than {device.device} has ({size(device.total_bytes)}). "
            f"Try: {cures([entries[name]], decoding, True)}"
        )
    if at_once * fewest > device.total_bytes:
        raise SetupError(
            f"machine.workers: {at_once} runs at once on {device.device} take at least {size(at_once * fewest)} of "
            f"memory, and it has {size(device.total_bytes)}. Try: --workers, at most "
            f"{device.total_bytes // fewest} for each device"
        )
    left = device.free_bytes + CONTEXT_BYTES  # what has asked held a context of its own
    if max(most, at_once * fewest) > left:
        raise SetupError(
            f"machine.device: {device.device}: other processes hold {size(device.total_bytes - left)} of its "
            f"{size(device.total_bytes)}, and entries.{name} takes at least {size(most)}. Try: end them (nvidia-smi "
            "shows them), or machine.devices, without this one"
        )

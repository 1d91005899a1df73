"""Checks on every run (protocol rule 11). Each returns None if it passes, else a few words on what is wrong."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from bakeoff.compute.model.base import Base
from bakeoff.compute.model.position_hash import position_hash
from bakeoff.compute.model.quantization import scales
from bakeoff.compute.model.team import whole
from bakeoff.data.tokens import Tokens
from bakeoff.store.documents import CurveRow

RELOAD_TOLERANCE = 1e-6  # relative, as the next
START_TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}  # not on a CPU
MOST_SKIPPED = 0.1  # of the steps in fp16
NAMES_SHOWN = 3


class Marks:
    """The hashes of a model as it is now, which stay known while its weights are where, and what, they are."""

    def __init__(self, model: nn.Module):
        self.hashes = fingerprints(model)
        self.known = WeakIdKeyDictionary()  # by weight: its memory, format, changes, and hash
        for name, weight in model.named_parameters():
            self.known[weight] = (*state_of(weight), self.hashes[name])

    def mark(self, tensor: torch.Tensor) -> int | None:
        """Return a tensor's hash if it is one of the weights and was not changed or exchanged."""
        *state, mark = self.known.get(tensor, (None, None))
        return mark if state == [*state_of(tensor)] else None


def state_of(weight: torch.Tensor) -> tuple[int, torch.dtype, int]:
    """Return what shows without reading it that a weight was changed or exchanged: its memory, format and changes."""
    return weight.data_ptr(), weight.dtype, weight._version


def fingerprints(adapted: nn.Module, marks: Marks | None = None) -> dict[str, int]:
    """Return a hash of each tensor by name: of parameters, buffers and the scales of packed weights.

    A weight's hash that is among `marks` is not computed again. What a team shares out is put together for it.
    """
    tensors = dict((*adapted.named_parameters(), *adapted.named_buffers(), *scales(adapted)))
    known = {name: marks.mark(tensor) if marks else None for name, tensor in tensors.items()}
    return {name: known[name] or position_hash(whole(tensor)) for name, tensor in tensors.items()}


def only_moved(
    before: Mapping[str, int],
    after: Mapping[str, int],
    trained: Collection[str],
    steps: int,
    may_stay_unchanged: Callable[[str], bool] = lambda name: False,
) -> str | None:
    """Complain of a tensor that changed though it is not among the `trained`, and of a trained one that did not.

    `steps` are those up to the kept checkpoint. Before the second step, a weight may be unchanged for a good reason:
    the gradient of LoRA's first factor is zero until the second factor has left zero. `may_stay_unchanged` says for
    which weights this is so at any step.
    """
    if before.keys() != after.keys():
        return f"tensors were added or removed by training: {shown(before.keys() ^ after.keys())}"
    moved = {name for name in before if before[name] != after[name]}
    complaints = []
    if moved - set(trained):
        complaints.append(f"should not be trained, but changed: {shown(moved - set(trained))}")
    resting = {name for name in set(trained) - moved if not may_stay_unchanged(name)}
    if steps > 1 and resting:
        complaints.append(f"should be trained, but never changed: {shown(resting)}")
    return "; ".join(complaints) or None


def shown(names: Iterable[str]) -> str:
    """Return a few names and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMES_SHOWN} more" if len(ordered) > NAMES_SHOWN else ""
    return ", ".join(ordered[:NAMES_SHOWN]) + more


def start_tolerance(base: Base) -> float:
    """Return how far the loss of a method that starts as the base may be from the base's: on a CPU no bit."""
    return 0.0 if base.device.type == "cpu" else START_TOLERANCE[base.precision]


def equals_base(base_loss: float, loss: float, tolerance: float = 0.0) -> str | None:
    """Complain if a method that starts as the base has another loss before its first step."""
    if math.isclose(loss, base_loss, rel_tol=tolerance):
        return None
    return f"the base's loss is {base_loss:.9g}, the adapted model's {loss:.9g} before the first step"


def few_skipped(skipped: int, steps: int) -> str | None:
    """Complain where many steps in fp16 were skipped: such a run has learnt less than the others."""
    if skipped <= MOST_SKIPPED * steps:
        return None
    return f"{skipped} of {steps} steps were skipped, because their gradients left the range of fp16"


def same_when_loaded(trained_loss: float, loaded_loss: float) -> str | None:
    """Complain if the saved adapter on an untouched base has another loss than the model that was trained."""
    if math.isclose(loaded_loss, trained_loss, rel_tol=RELOAD_TOLERANCE):
        return None
    return f"loss {trained_loss:.9g} when trained, {loaded_loss:.9g} when loaded"


def unigram_entropy(rows: Sequence[Tokens]) -> float:
    """Return the entropy in nats of the target tokens' frequencies: the loss of guessing by them alone."""
    counts = Counter(row.target[place] for row in rows for place in row.trained)
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


def beats_unigram(loss: float, rows: Sequence[Tokens]) -> str | None:
    """Complain if a model before training is no better than guessing tokens by their frequency."""
    entropy = unigram_entropy(rows)
    if loss < entropy:
        return None
    return (
        f"loss is worse than guessing by token frequency: labels or template may be wrong, or the base does not know "
        f"such text ({loss:.3f} before the first step, {entropy:.3f} by frequency)"
    )


def finite(curve: Iterable[CurveRow], losses: Iterable[tuple[float, int]]) -> str | None:
    """Complain of the first loss that is not finite, in the curve's rows or among the test examples' sums."""
    for row in curve:
        for name, value in row.row().items():
            if value is not None and not math.isfinite(value):
                return f"{name} is {value} at step {row.step}"
    odd = sum(not math.isfinite(loss) for loss, _ in losses)
    return f"the loss of {odd} test examples is not finite" if odd else None

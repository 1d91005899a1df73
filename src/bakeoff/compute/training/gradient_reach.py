"""Finds, from shapes alone, which trained tensors the loss of a text has gradients for, so that a plan can refuse."""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import PreTrainedModel

from bakeoff.compute.model.base import Base, inner, trainable
from bakeoff.compute.training.loss import batch_of, target_losses
from bakeoff.compute.training.optimizers import check_optimizer
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line
from bakeoff.methods import Method
from bakeoff.methods.meta import masks_without_values

ROWS = (Tokens([1, 2, 3, 4], [5, 6]), Tokens([1, 2], [3, 4]))


def adapted_shape(base: PreTrainedModel, method: Method) -> nn.Module:
    """Return a base on the meta device as a method adapts it.

    Raises SetupError if the method cannot be put on it, trains nothing, or trains weights that no text passes.
    """
    with torch.device("meta"), one_line(f"{method.name}: cannot be applied to {type(base).__name__}"):
        adapted = method.adapt(base, None)
        if not trainable(adapted):
            raise SetupError(f"{method.name}: trains nothing of {type(base).__name__} with these settings")
        check_reach(method.name, adapted)
        check_optimizer(method, adapted)
    return adapted


def check_reach(where: str, adapted: nn.Module) -> None:
    """Raise SetupError if an adapted model on the meta device cannot be called, or trains what no text passes.

    Some architectures use values, which the meta device does not have. They cannot be checked here, and are tried when
    a run loads them.
    """
    base = Base(inner(adapted), SimpleNamespace(eos_token_id=0), torch.device("meta"), "fp32")
    kind = type(base.model).__name__
    try:
        with masks_without_values(), one_line(f"{where}: {kind} cannot be called with it"):
            target_losses(base, adapted, batch_of(base, ROWS)).sum().backward()
    except SetupError as error:
        if isinstance(error.__cause__, NotImplementedError) or "meta" in str(error.__cause__).lower():
            return
        raise
    idle = [name for name, weight in trainable(adapted).items() if weight.grad is None]
    if idle:
        raise SetupError(
            f"{where}: {len(idle)} of its {len(trainable(adapted))} trained tensors have no effect on any text of "
            f"{kind} ({idle[0]} first). Try: other weights, or another method"
        )

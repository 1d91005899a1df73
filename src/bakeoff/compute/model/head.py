"""The output head: gives it other hidden states than the model's own, or calls it alone if nothing follows it.

What comes between a head and its logits (scaling, soft-capping) is written in each architecture's own forward, so that
only a call of the model computes it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel


@contextmanager
def head_input(model: PreTrainedModel, replace: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Give the output head `replace` of its input (batch, seq, width).

    The model still does what it does to logits afterwards (scaling, soft-capping).
    """

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (replace(inputs[0]),)

    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def only_rows(model: PreTrainedModel, rows: torch.Tensor) -> AbstractContextManager[None]:
    """Give the head only the hidden states at `rows` of the flattened (batch x seq) positions.

    The head is the widest product of a small model, and only target positions need it: logits come out as
    (rows, vocabulary).
    """
    return head_input(model, lambda hidden: hidden.flatten(0, 1)[rows])


def logits_of(model: PreTrainedModel, hidden: torch.Tensor, head_alone: bool) -> torch.Tensor:
    """Return the logits of hidden states (rows, width) by the model's own head and what follows it.

    If nothing follows (`head_alone`), only the head is called. Otherwise the model is called for one token whose hidden
    state is exchanged.
    """
    if head_alone:
        return model.get_output_embeddings()(hidden)
    token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
    inputs = {"input_ids": token} | ({"decoder_input_ids": token} if model.config.is_encoder_decoder else {})
    with head_input(model, lambda _: hidden):
        return model(**inputs, use_cache=False).logits


@torch.no_grad()
def is_head_alone(model: PreTrainedModel) -> bool:
    """Return whether the model's logits are its head's outputs: tried on hidden states large enough to be capped."""
    weight = model.get_output_embeddings().weight
    waves = 100 * torch.arange(2 * weight.shape[1], device=weight.device).sin()
    hidden = waves.view(2, -1).to(weight.dtype)
    return torch.equal(logits_of(model, hidden, head_alone=False).float(), logits_of(model, hidden, True).float())

"""Copies of a model that share its weights: each adapter is put on a copy of its own, with the methods' own code."""

from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel

from bakeoff.compute.model.quantization import packed_parts

Dtypes = dict[str, torch.dtype]  # of parameters and buffers, by name


def dtypes_of(model: nn.Module) -> Dtypes:
    """Return the data type of each weight and buffer that a model has now."""
    # Not by id: a buffer that is converted is another object.
    return {name: tensor.dtype for name, tensor in (*model.named_parameters(), *model.named_buffers())}


class Twin:
    """A copy of a model whose modules are its own and whose weights are the original's.

    The copy's parameters can be replaced, also in place of their data, without the original noticing; ties hold. Where
    `dtypes` says another type than a weight has now, the copy has its own weight of that type.
    """

    def __init__(self, original: PreTrainedModel, dtypes: Dtypes):
        memo = packed_parts(original)
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # of the copy and the original
        for name, parameter in original.named_parameters():
            if id(parameter) not in memo:
                own = nn.Parameter(parameter.data.to(dtypes[name]), requires_grad=parameter.requires_grad)
                memo[id(parameter)] = own
                self.pairs.append((own, parameter))
        for name, buffer in original.named_buffers():
            memo[id(buffer)] = buffer.to(dtypes[name])
        self.model: PreTrainedModel = deepcopy(original, memo)

    def share_again(self) -> None:
        """Share all weights again that were converted, and then equal the original's."""
        for own, original in self.pairs:
            apart = own.data_ptr() != original.data_ptr() and own.dtype == original.dtype
            if apart and own.shape == original.shape and torch.equal(own, original):
                own.data = original.data

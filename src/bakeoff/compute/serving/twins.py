"""Copies of a model that share its weights: each adapter is put on a copy of its own, with the methods' own code."""

from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel

from bakeoff.compute.model.quantization import packed_parts

Dtypes = dict[int, torch.dtype]  # of parameters and buffers, by id


def dtypes_of(model: nn.Module) -> Dtypes:
    """Return the data type of each weight and buffer that a model has now."""
    return {id(tensor): tensor.dtype for tensor in (*model.parameters(), *model.buffers())}


class Twin:
    """A copy of a model whose modules are its own and whose weights are the original's.

    The copy's parameters can be replaced, also in place of their data, without the original noticing; ties hold. Where
    `dtypes` says another type than a weight has now, the copy has its own weight of that type.
    """

    def __init__(self, original: PreTrainedModel, dtypes: Dtypes):
        memo = packed_parts(original)
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # of the copy and the original
        for parameter in original.parameters():
            if id(parameter) not in memo:
                own = nn.Parameter(parameter.data.to(dtypes[id(parameter)]), requires_grad=parameter.requires_grad)
                memo[id(parameter)] = own
                self.pairs.append((own, parameter))
        for buffer in original.buffers():
            memo[id(buffer)] = buffer.to(dtypes[id(buffer)])
        self.model: PreTrainedModel = deepcopy(original, memo)

    def share_again(self) -> None:
        """Share all weights again that were converted, and then equal the original's."""
        for own, original in self.pairs:
            apart = own.data_ptr() != original.data_ptr() and own.dtype == original.dtype
            if apart and own.shape == original.shape and torch.equal(own, original):
                own.data = original.data

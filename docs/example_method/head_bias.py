"""A method of its own for bakeoff: how likely each word is gets trained, and nothing else."""

from typing import ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods import register
from bakeoff.methods.base_weights import BaseWeights


@register("head_bias")
class HeadBias(BaseWeights):
    """Head bias: a number is trained for each word of the vocabulary and added to its logit."""

    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}

    learning_rate: float = Field(1e-2, gt=0, description="AdamW's peak learning rate")

    def chosen(self, model):
        """Return the weights to be trained: the numbers, put on the output head, where they start at zero."""
        import torch

        head = model.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise SetupError(f"head_bias: the head of {type(model).__name__} has a bias already. Try the method bias")
        head.shift = torch.nn.Parameter(torch.zeros(len(head.weight), device=head.weight.device))
        head.register_forward_hook(lambda module, inputs, logits: logits + module.shift)
        return [head.shift]

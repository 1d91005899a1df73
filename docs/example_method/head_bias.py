"""An example of a method for bakeoff: it trains only how likely each word of the vocabulary is."""

from typing import ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods import register
from bakeoff.methods.base_weights import BaseWeights


@register("head_bias")
class HeadBias(BaseWeights):
    """Head bias: one trained number per word of the vocabulary is added to its logit."""

    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")

    def chosen(self, model):
        """Add the numbers to the output head, starting at zero, and return them as the weights to train."""
        import torch

        head = model.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise SetupError(f"head_bias: the head of {type(model).__name__} has a bias already. Try the method bias")
        head.shift = torch.nn.Parameter(torch.zeros(len(head.weight), device=head.weight.device))
        head.register_forward_hook(lambda module, inputs, logits: logits + module.shift)
        return [head.shift]

"""Traditional fine-tuning of the top of the model."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.base_weights import BaseWeights
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register("last_layers")
class LastLayers(BaseWeights):
    """Last layers: the top blocks and an untied output head are trained, everything below is frozen.

    A tied head is untied by a copy, so that the input embedding stays frozen (Howard and Ruder 2018 train from
    the top down in the same spirit).
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1801.06146"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-5, 3e-3)}

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    blocks: int = Field(1, ge=0, description="number of blocks at the top that are trained")
    head: bool = Field(True, description="train the output head, untied from the input embedding")
    final_norm: bool = Field(False, description="train the normalisation before the output head")

    def chosen(self, model: "PreTrainedModel") -> "Iterable[nn.Parameter]":
        """Return the weights of the top; the head is untied first."""
        blocks, norm = find_blocks(model)
        if self.blocks > len(blocks):
            raise SetupError(f"last_layers: blocks: {self.blocks} is more than the model's {len(blocks)}")
        if not (self.blocks or self.head or self.final_norm):
            raise SetupError("last_layers: nothing to train. Set blocks, head or final_norm")
        parts = list(blocks[len(blocks) - self.blocks :])
        if self.head:
            parts.append(untie_head(model))
        if self.final_norm:
            if norm is None:
                raise SetupError(
                    f"last_layers: final_norm: {type(model).__name__} has no normalisation outside of its blocks"
                )
            parts.append(norm)
        return [p for part in parts for p in part.parameters()]


def find_blocks(model: "PreTrainedModel") -> tuple["nn.ModuleList", "nn.Module | None"]:
    """Return the decoder's list of blocks, found by its length, and the normalisation after it, if there is one."""
    from torch import nn

    config = model.config.get_text_config(decoder=True)
    depth = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers  # T5's own name comes first
    for parent in (model.get_decoder() if model.config.is_encoder_decoder else model).modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                norms = [c for n, c in parent.named_children() if is_final_norm(n)]
                return child, norms[-1] if norms else None
    raise SetupError(f"last_layers: no list of {depth} blocks found in {type(model).__name__}")


def is_final_norm(name: str) -> bool:
    """Return whether a module outside of the blocks normalises their output; in BART and BLOOM one is before them."""
    return "emb" not in name and ("norm" in name.lower() or name.lower().startswith("ln"))


def untie_head(model: "PreTrainedModel") -> "nn.Module":
    """Give the output head a weight of its own, and return the head."""
    from torch import nn

    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head

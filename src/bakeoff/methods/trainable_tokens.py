"""Trains the embeddings of a few tokens."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from bakeoff.errors import SetupError
from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("trainable_tokens")
class TrainableTokens(Injected):
    """Trainable tokens: the embeddings of chosen tokens are trained, also in a tied head (PEFT, 2025)."""

    paper: ClassVar[str] = "https://huggingface.co/docs/peft/package_reference/trainable_tokens"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1.0)}
    config_class: ClassVar[str] = "TrainableTokensConfig"
    tiny: ClassVar[dict[str, Any]] = {"token_indices": [10, 20, 61]}

    learning_rate: float = Field(5e-2, gt=0, description="peak learning rate of AdamW")
    target_modules: None = Field(
        None, description="always null: rows of the input embedding are trained, and of a head that is tied to it"
    )
    token_indices: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=1, description="ids of the tokens whose embeddings are trained, for example those of the template"
    )

    @field_validator("token_indices")
    @classmethod
    def _once_each(cls, value: list[int]) -> list[int]:
        twice = [token for token, count in Counter(value).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} appears twice. Name each token once")
        return value

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if an id is not a token of the model."""
        rows = model.get_input_embeddings().weight.shape[0]
        largest = max(self.token_indices)
        if largest >= rows:
            raise SetupError(
                f"{self.name}: token_indices: {largest} is not a token of the model. Allowed: 0 to {rows - 1}"
            )
        return super().adapt(model, tokenizer)

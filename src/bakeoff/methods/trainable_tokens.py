"""Training of a few tokens' embeddings."""

from typing import Any, ClassVar

from pydantic import Field

from bakeoff.methods.injected import Injected
from bakeoff.methods.method import register


@register("trainable_tokens")
class TrainableTokens(Injected):
    """Trainable tokens: the embeddings of chosen tokens are trained, in a tied head too (PEFT, 2025)."""

    paper: ClassVar[str] = "https://huggingface.co/docs/peft/package_reference/trainable_tokens"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1.0)}
    config_class: ClassVar[str] = "TrainableTokensConfig"
    tiny: ClassVar[dict[str, Any]] = {"token_indices": [10, 20, 61]}

    learning_rate: float = Field(5e-2, gt=0, description="AdamW's peak learning rate")
    target_modules: None = Field(None, description="the input embedding, and a head that is tied to it")
    token_indices: list[int] = Field(min_length=1, description="ids of the tokens, say those of the template")

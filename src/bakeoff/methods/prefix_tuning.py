"""Prefix tuning: trained keys and values that every block's attention reads before the text's own."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line
from bakeoff.methods.meta import masks_without_values
from bakeoff.methods.method import register, task_type
from bakeoff.methods.soft_prompts import SoftPrompt

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@register("prefix_tuning")
class PrefixTuning(SoftPrompt):
    """Prefix tuning: trained keys and values are added before those of the text in every block (Li and Liang 2021).

    They start as those that the model itself computes for words. An encoder-decoder has them in its decoder's
    self-attention.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2101.00190"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1e-1)}
    config_class: ClassVar[str] = "PrefixTuningConfig"
    checkpointable: ClassVar[bool] = False  # recomputed blocks are given no past keys and values

    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of AdamW")

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config with the shape of the model's keys, which is found by running the model."""
        import peft
        import torch

        states = keys_and_values(model, torch.zeros(1, dtype=torch.long, device=model.device))
        shapes = {(s.shape[1], s.shape[3]) for pair in states for s in pair}
        if len(shapes) != 1:
            raise SetupError(
                f"prefix_tuning: {type(model).__name__}: {'blocks have keys of several shapes' if shapes else NO_KEYS}"
            )
        heads, width = shapes.pop()
        return getattr(peft, self.config_class)(
            task_type=task_type(model),
            num_virtual_tokens=self.num_virtual_tokens,
            num_layers=len(states),
            num_attention_heads=heads,
            token_dim=heads * width,
            **self.more(),
        )

    def more(self) -> dict[str, Any]:
        """Return further fields of PEFT's config."""
        return {}

    def start_as(self, adapted: "PeftModel", ids: "torch.Tensor") -> None:
        """Copy the keys and values of the words: PEFT's rows are (blocks, key or value, heads, width), flattened."""
        import torch

        states = keys_and_values(adapted.get_base_model(), ids)
        rows = torch.stack([s[0].transpose(0, 1).flatten(1) for pair in states for s in pair], dim=1)
        self.put(adapted.prompt_encoder["default"], rows.flatten(1))

    def put(self, encoder: Any, rows: "torch.Tensor") -> None:
        """Copy initial values (virtual tokens, numbers) into PEFT's module."""
        encoder.embedding.weight.copy_(rows)


@register("cartridge")
class Cartridge(PrefixTuning):
    """Cartridge: prefix tuning whose first virtual tokens stay frozen, as a sink of attention (Eyuboglu et al. 2025).

    It starts as the keys and values of words, and learns from the examples: this is not the paper's self-study.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2506.06266"
    config_class: ClassVar[str] = "CartridgeConfig"

    num_frozen_tokens: int = Field(1, ge=0, description="number of virtual tokens at the beginning that stay frozen")

    @model_validator(mode="after")
    def _some_train(self) -> "Cartridge":
        if self.num_frozen_tokens >= self.num_virtual_tokens:
            raise ValueError("num_frozen_tokens must be below num_virtual_tokens, or nothing is trained")
        return self

    def more(self) -> dict[str, Any]:
        """Return the number of frozen tokens."""
        return {"num_frozen_tokens": self.num_frozen_tokens}

    def put(self, encoder: Any, rows: "torch.Tensor") -> None:
        """Copy initial values into the frozen and the trained tokens."""
        encoder.load_prompt_embeddings(rows)


NO_KEYS = "it keeps no keys and values"


def keys_and_values(model: "PreTrainedModel", ids: "torch.Tensor") -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Return the keys and values of a text (tokens,) in every block's self-attention: (1, heads, tokens, width).

    In an encoder-decoder they are the decoder's. Empty if the model has another kind of memory.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    inputs = {"input_ids": ids[None]}
    cache: DynamicCache | EncoderDecoderCache = DynamicCache()  # without a config, so that a window drops nothing
    if model.config.is_encoder_decoder:
        inputs |= {"decoder_input_ids": ids[None]}
        inputs |= unread(model, len(ids)) if model.device.type == "meta" else {}
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad(), masks_without_values() if model.device.type == "meta" else nullcontext():
        kept = getattr(model(**inputs, past_key_values=cache, use_cache=True), "past_key_values", None)
    layers = getattr(getattr(kept, "self_attention_cache", kept), "layers", [])
    return [(layer.keys, layer.values) for layer in layers if getattr(layer, "keys", None) is not None]


def unread(model: "PreTrainedModel", tokens: int) -> "dict[str, Any]":
    """Return an output of the right shape for an encoder that uses values, on the meta device, as an input.

    Without it a plan could not find the shape of the decoder's keys, which does not depend on what was read.
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    try:
        with one_line("encoder"):
            model.get_encoder()(input_ids=torch.zeros(1, tokens, dtype=torch.long, device="meta"))
    except SetupError:
        width = model.get_input_embeddings().weight.shape[1]
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=torch.empty(1, tokens, width, device="meta"))}
    return {}

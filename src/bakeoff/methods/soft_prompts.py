"""Soft prompts: trained vectors before the text, used like embedded words."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.instructions import STARTS, best, search
from bakeoff.methods.method import Method, register, task_type, with_peft

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEARCH_TEXTS, SEARCH_BATCHES = 32, 4  # texts that a search for the start tries, on so many training batches


class SoftPrompt(Method):
    """A method with a prompt of trained vectors, which starts as words: of a text, or drawn from the vocabulary.

    This class computes the start itself. PEFT would load a tokenizer by name again for a text, and otherwise draw from
    N(0, 1), which is some 50 times the scale of embedded words.
    """

    tiny: ClassVar[dict[str, Any]] = {"num_virtual_tokens": 3, "prompt_tuning_init_text": "w5 w6"}

    num_virtual_tokens: int = Field(20, ge=1, description="number of vectors before the text")
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "SEARCH"] = Field(
        "TEXT",
        description="initial value of the vectors: TEXT takes the words of prompt_tuning_init_text, "
        "SAMPLE_VOCAB draws words from the vocabulary, SEARCH takes a text with a low loss on training examples, found "
        "by edits of that text and of instructions",
    )
    prompt_tuning_init_text: str = Field(
        "[SUMMARIZE]", min_length=1, description="text of the initial vectors, repeated or cut to num_virtual_tokens"
    )

    @property
    def virtual_tokens(self) -> int:
        """The number of positions of the context that the prompt takes."""
        return self.num_virtual_tokens

    @abstractmethod
    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config for this model; raise SetupError if the model cannot have such a prompt."""

    @abstractmethod
    def start_as(self, adapted: "PeftModel", ids: "torch.Tensor") -> None:
        """Make the prompt start as the words `ids` (virtual tokens,)."""

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel whose prompt starts as words."""
        import torch

        adapted = with_peft(model, self.peft_config(model))
        if tokenizer is not None:
            with torch.no_grad():
                self.start_as(adapted, torch.tensor(self.words(model, tokenizer), device=model.device))
            if self.prompt_tuning_init == "SEARCH":
                adapted.tokenizer = tokenizer
        return adapted

    def start(self, adapted: "nn.Module", batches: Sequence[Any], forward: "Callable[[nn.Module, Any], Any]") -> None:
        """Let a search find the text to start as: that with the lowest loss on the first training batches.

        Validation examples are not read for it: by these, trials and checkpoints are chosen.
        """
        if self.prompt_tuning_init != "SEARCH":
            return
        import torch

        prompt: Any = adapted
        trained = [weight for weight in adapted.parameters() if weight.requires_grad]
        fresh = [weight.clone() for weight in trained]

        def begin(text: str) -> None:
            ids = self.text_ids(prompt.tokenizer, text) or self.start_ids(prompt.tokenizer)
            for weight, before in zip(trained, fresh, strict=True):
                weight.copy_(before)
            self.start_as(prompt, torch.tensor(self.repeated(ids), device=trained[0].device))

        def loss_of(text: str) -> float:
            begin(text)
            losses = [forward(adapted, members) for members in batches[:SEARCH_BATCHES]]
            return sum(float(part.sum()) for part in losses) / sum(map(len, losses))

        with torch.no_grad():
            begin(best(search(loss_of, [self.prompt_tuning_init_text, *STARTS], SEARCH_TEXTS, seed=0)))

    def as_saved(self, model: "PreTrainedModel") -> "nn.Module":
        """Return a PeftModel that has only a prompt; a prompt encoder is needed only in training."""
        config = self.peft_config(model)
        config.inference_mode = True
        return with_peft(model, config)

    def words(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """Return the ids that the prompt starts as."""
        import torch

        if self.prompt_tuning_init == "SAMPLE_VOCAB":
            known = min(len(tokenizer), model.get_input_embeddings().weight.shape[0])  # rows above were never trained
            return torch.randint(known, (self.num_virtual_tokens,)).tolist()
        return self.repeated(self.start_ids(tokenizer))

    def repeated(self, ids: list[int]) -> list[int]:
        """Return ids, repeated or cut to the number of virtual tokens."""
        return (ids * self.num_virtual_tokens)[: self.num_virtual_tokens]

    def text_ids(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def start_ids(self, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        """Return the ids of the text that the prompt starts as; raise SetupError if it has none."""
        ids = self.text_ids(tokenizer, self.prompt_tuning_init_text)
        if not ids:
            raise SetupError(
                f"{self.name}: prompt_tuning_init_text: {self.prompt_tuning_init_text!r} has no token that the base "
                f"knows. Try: a word in a language of the base, or prompt_tuning_init: SAMPLE_VOCAB"
            )
        return ids

    def check_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raise SetupError if the text that the prompt starts as has no token."""
        if self.prompt_tuning_init != "SAMPLE_VOCAB":
            self.start_ids(tokenizer)

    def check_scale(self, model: "PreTrainedModel") -> None:
        """Raise SetupError if the encoder scales words that it looks up, but not embeddings that it is given.

        Pegasus does so: if PEFT puts a soft prompt before a text, the text reaches it at a fraction of its scale.
        """
        scale = getattr(model.get_encoder(), "embed_scale", 1.0) if model.config.is_encoder_decoder else 1.0
        if scale != 1.0:
            raise SetupError(
                f"{self.name}: {type(model).__name__} scales only words that it looks up itself, but a soft prompt is "
                f"embedded before. Try: prefix_tuning"
            )


def sizes_beyond_peft(model: "PreTrainedModel") -> dict[str, int]:
    """Return the sizes that PEFT needs, but does not find, or finds wrong, in a model's config.

    A prompt has the width of embedded words, which is not always that of the model; blocks and heads do not matter.
    """
    known, width = model.config.to_dict(), model.get_input_embeddings().weight.shape[1]
    sizes = {}
    if not {"num_hidden_layers", "num_layers", "n_layer"} & known.keys():
        sizes["num_layers"] = 1
    if not {"num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"} & known.keys():
        sizes["num_attention_heads"] = 1
    if width not in (known.get("hidden_size"), known.get("n_embd"), known.get("d_model")):
        sizes["token_dim"] = width
    return sizes


@register("prompt_tuning")
class PromptTuning(SoftPrompt):
    """Prompt tuning: the embeddings of virtual tokens are trained, the model is frozen (Lester et al. 2021)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2104.08691"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1.0)}

    learning_rate: float = Field(0.05, gt=0, description="peak learning rate of AdamW")
    num_virtual_tokens: int = Field(6, ge=1, description="number of vectors that are trained")

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config with one prompt: an encoder-decoder's second prompt would never be read."""
        from peft import PromptTuningConfig

        self.check_scale(model)
        return PromptTuningConfig(
            task_type=task_type(model),
            num_virtual_tokens=self.num_virtual_tokens,
            num_transformer_submodules=1,
            **sizes_beyond_peft(model),
        )

    def start_as(self, adapted: "PeftModel", ids: "torch.Tensor") -> None:
        """Copy the words' embeddings."""
        words = adapted.get_base_model().get_input_embeddings()(ids)
        adapted.prompt_encoder["default"].embedding.weight.copy_(words)


@register("p_tuning")
class PTuning(SoftPrompt):
    """P-tuning: a small trained network, the prompt encoder, makes the virtual tokens (Liu et al. 2021).

    The final prompt is saved in PEFT's format, without the encoder. A training that stopped resumes from its
    checkpoint, which has the encoder.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2103.10385"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-3, 1.0)}

    learning_rate: float = Field(5e-3, gt=0, description="peak learning rate of AdamW")
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP",
        description="prompt encoder: MLP is three linear layers, LSTM is two bidirectional LSTM layers and two "
        "linear layers",
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, description="width of the prompt encoder; null: the width of the model"
    )

    def peft_config(self, model: "PreTrainedModel") -> "PeftConfig":
        """Return PEFT's config with one prompt: an encoder-decoder's second prompt would never be read."""
        from peft import PromptEncoderConfig

        self.check_scale(model)
        return PromptEncoderConfig(
            task_type=task_type(model),
            num_virtual_tokens=self.num_virtual_tokens,
            num_transformer_submodules=1,
            encoder_reparameterization_type=self.encoder_reparameterization_type,
            encoder_hidden_size=self.encoder_hidden_size or model.get_input_embeddings().weight.shape[1],
            **sizes_beyond_peft(model),
        )

    def start_as(self, adapted: "PeftModel", ids: "torch.Tensor") -> None:
        """Change the encoder's last layer as little as possible, so that it outputs the words (least squares)."""
        import torch

        encoder = adapted.prompt_encoder["default"]
        last = encoder.mlp_head[-1]
        inside: list[torch.Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0][0]))
        out = encoder(torch.arange(len(ids), device=ids.device)[None])[0]
        handle.remove()
        words = adapted.get_base_model().get_input_embeddings()(ids).float()
        last.weight.add_((torch.linalg.pinv(inside[0]) @ (words - out)).T)

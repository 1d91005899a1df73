"""LoRA that starts from the weights themselves, or from their inputs, instead of random numbers."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.lora import Lora
from bakeoff.methods.method import quiet_peft, register
from bakeoff.methods.packed import unpacked

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_PASSES = 200  # over a batch each


class StartsFromWeights(Lora):
    """A LoRA that starts as a part of each weight. The weight itself stays as it is.

    PEFT subtracts that part from the base's weights. Here a frozen second half of the adapter subtracts it: a LoRA of
    twice the rank, [A; A0] and [B, -B0], is the same function. So the base is untouched, and the saved adapter is a
    plain LoRA that is right on an untouched base, in bf16 too.
    """

    starts_as_base: ClassVar[bool] = False  # but for rounding: both halves cancel
    transposed: ClassVar[bool] = True  # whether PEFT's start knows weights that are stored (inputs, outputs)

    @abstractmethod
    def start_of(self, layer: Any) -> None:
        """Let PEFT put the start into the layer's factors; it may change the layer's weight."""

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel; raise SetupError if a weight is too small for the rank."""
        from peft.tuners.lora import LoraLayer
        from torch.nn.utils.parametrize import register_parametrization

        adapted = super().adapt(model, tokenizer)
        for layer in adapted.modules():
            if not isinstance(layer, LoraLayer):
                continue
            weight: nn.Parameter = layer.get_base_layer().weight
            if not self.transposed and getattr(layer, "fan_in_fan_out", False):
                raise SetupError(f"{self.name}: PEFT cannot start from weights stored as GPT-2 stores them")
            if weight.device.type == "meta":
                continue
            with unpacked(layer):
                self.start_of(layer)
            for factor, axis, sign in ((layer.lora_A["default"], 0, 1), (layer.lora_B["default"], 1, -1)):
                frozen = sign * factor.weight.detach().clone()
                register_parametrization(factor, "weight", beside(frozen, axis), unsafe=True)
        return adapted

    def as_saved(self, model: "PreTrainedModel") -> "nn.Module":
        """Return a PeftModel with a plain LoRA of twice the rank."""
        twice = self.model_copy(update={"r": 2 * self.r, "lora_alpha": 2 * self.lora_alpha})
        return super(StartsFromWeights, twice).adapt(model, None)

    def save(self, adapted: "nn.Module", folder: Path) -> None:
        """Write both halves as a plain LoRA of twice the rank."""
        configs: Any = adapted.peft_config
        kept, doubled = configs["default"], copy(configs["default"])
        doubled.r, doubled.lora_alpha = 2 * kept.r, 2 * kept.lora_alpha
        factors = {
            f"{name}.weight": module.weight
            for name, module in adapted.named_modules()
            if name.endswith((".lora_A.default", ".lora_B.default"))
        }
        configs["default"] = doubled
        try:
            adapted.save_pretrained(str(folder), state_dict=factors, save_embedding_layers=False)  # type: ignore[operator]
        finally:
            configs["default"] = kept


def beside(frozen: Any, axis: int) -> "nn.Module":
    """Return a parametrization that puts a constant next to a trained factor."""
    import torch

    class Beside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frozen", frozen)

        def forward(self, trained: torch.Tensor) -> torch.Tensor:
            return torch.cat([trained, self.frozen], dim=axis)  # type: ignore[list-item]

    return Beside()


@register("pissa")
class Pissa(StartsFromWeights):
    """PiSSA: LoRA that starts as the largest singular vectors of each weight (Meng et al. 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2404.02948"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-5, 1e-3)}

    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")

    def start_of(self, layer: Any) -> None:
        """Let PEFT compute the singular vectors."""
        layer.pissa_init("default", "pissa")


@register("olora")
class Olora(StartsFromWeights):
    """OLoRA: LoRA that starts as the first columns of each weight's QR decomposition (Büyükakyüz 2024)."""

    paper: ClassVar[str] = "https://arxiv.org/abs/2406.01775"
    search_range: ClassVar[dict[str, tuple[float, float]]] = {"learning_rate": (1e-5, 1e-3)}
    transposed: ClassVar[bool] = False

    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")

    def start_of(self, layer: Any) -> None:
        """Let PEFT compute the decomposition."""
        layer.olora_init("default")


@register("eva")
class Eva(Lora):
    """EVA: LoRA whose first factor starts as the main directions of each weight's inputs (Paischer et al. 2024).

    Every weight gets the same rank: PEFT could distribute ranks by the data, but then no plan would know their number.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2410.07170"

    tau: float = Field(
        0.99,
        gt=0,
        lt=1,
        description="directions count as settled when their cosine between two passes reaches this value",
    )

    def start(self, adapted: "nn.Module", batches: Sequence[Any], forward: "Callable[[nn.Module, Any], Any]") -> None:
        """Let PEFT find the directions; raise SetupError if they do not settle."""
        import torch
        from peft import EvaConfig, initialize_lora_eva_weights

        config: Any = adapted.peft_config["default"]  # type: ignore[index]
        passes = iter(range(MOST_PASSES))

        def run(model: "nn.Module", members: torch.Tensor) -> None:
            if next(passes, None) is None:
                raise SetupError(
                    f"eva: the directions of some weight's inputs have not settled after {MOST_PASSES} batches. "
                    f"Try a smaller r than {self.r}, a lower tau than {self.tau:g} or a larger protocol.batch_size"
                )
            forward(model, members.tolist())

        config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=1.0, tau=self.tau)
        with quiet_peft():
            initialize_lora_eva_weights(
                adapted, [torch.tensor(members) for members in batches], forward_fn=run,
                prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False,
                gather_distributed_inputs=False,  # processes that share a run all see the same batches here
            )  # fmt: skip
        config.init_lora_weights, config.eva_config = True, None  # a saved adapter is a plain LoRA

"""QLoRA: LoRA over a base in four bits."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bakeoff.errors import SetupError
from bakeoff.methods.lora import Lora
from bakeoff.methods.method import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("qlora")
class Qlora(Lora):
    """QLoRA: LoRA over a base whose matrices are stored in four bits (Dettmers et al. 2023).

    The base is loaded in full precision and then put into four bits, so a run's start needs more memory than training.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2305.14314"
    starts_as_base: ClassVar[bool] = False
    keeps_base: ClassVar[bool] = False

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field(
        "nf4", description="the set of sixteen values that weights are rounded to"
    )
    bnb_4bit_use_double_quant: bool = Field(True, description="store the scales of the blocks in eight bits")

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return a PeftModel over `model`, whose matrices are put into four bits (but not on the meta device)."""
        self.quantize(model)
        return super().adapt(model, tokenizer)

    def quantize(self, model: "PreTrainedModel") -> None:
        """Put every matrix into four bits, except the head and those that transformers keeps in fp32."""
        from torch import nn

        if find_spec("bitsandbytes") is None:
            raise SetupError("qlora: needs bitsandbytes. Try: pip install 'bakeoff[qlora]'")
        kept, head = set(model._keep_in_fp32_modules or ()), model.get_output_embeddings()
        places = [
            (parent, key)
            for parent in model.modules()
            for key, child in parent.named_children()
            if type(child) is nn.Linear and child is not head and key not in kept
        ]
        if not places:
            raise SetupError(f"qlora: {type(model).__name__} has no weight that bitsandbytes can quantize (nn.Linear)")
        if model.device.type == "meta":
            return
        for parent, key in places:
            setattr(parent, key, self.in_four_bits(getattr(parent, key)))
        model.is_loaded_in_4bit = True  # by which PEFT knows which of its layers to take

    def in_four_bits(self, layer: "nn.Linear") -> "nn.Module":
        """Return the layer with its weight in four bits; products keep the precision that it had."""
        from bitsandbytes.nn import Linear4bit, Params4bit

        weight, how = layer.weight.data, self.bnb_4bit_quant_type
        small = Linear4bit(
            layer.in_features, layer.out_features, bias=False, compute_dtype=weight.dtype, quant_type=how, device="meta"
        )
        small.weight = Params4bit(
            weight, requires_grad=False, quant_type=how, compress_statistics=self.bnb_4bit_use_double_quant
        )
        small.bias = layer.bias
        small.support_avx512bf16_for_cpu = False  # a kernel of some CPUs that rounds all products to bf16
        return small.to(weight.device)

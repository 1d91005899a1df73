"""QLoRA: LoRA over a base in four bits."""

from typing import ClassVar

from bakeoff.methods.lora import Lora
from bakeoff.methods.method import register
from bakeoff.store.records import Quantize


@register("qlora")
class Qlora(Lora):
    """QLoRA: LoRA over a base whose matrices are stored in four bits (Dettmers et al. 2023).

    It is `lora` with `quantize: nf4`, which any other method can have too.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2305.14314"
    quantize: ClassVar[Quantize | None] = "nf4"

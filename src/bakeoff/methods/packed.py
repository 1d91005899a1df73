"""Which weights of a base are packed in few bits: methods cannot train those, and compute their starts from copies."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

PACKED = {"Params4bit": 4, "Int8Params": 8}  # bitsandbytes' classes of packed weights


def bits_of(weight: "nn.Parameter") -> int | None:
    """Return in how many bits a weight is packed, None if it is not; on the meta device such a weight says so."""
    return PACKED.get(type(weight).__name__) or getattr(weight, "bits", None)


@contextmanager
def unpacked(layer: Any) -> Iterator[None]:
    """Put a copy of its base's weight, unpacked, into one of PEFT's layers for a while, which may be changed."""
    from peft.utils.integrations import dequantize_module_weight
    from torch import nn

    own = layer.base_layer
    layer.base_layer = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    layer.base_layer.weight = nn.Parameter(dequantize_module_weight(own).detach().clone())
    try:
        yield
    finally:
        layer.base_layer = own

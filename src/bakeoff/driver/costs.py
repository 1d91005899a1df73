"""What a plan knows about costs before any measurement: exact counts, and the least memory."""

from collections.abc import Mapping
from typing import Any

import numpy

from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Lengths

WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
TRAINED_BYTES = 16  # an fp32 weight, its gradient and AdamW's two moments


def exact_counts(lengths: Mapping[str, Lengths], protocol: ProtocolConfig, output_tokens: int) -> dict[str, Any]:
    """Return token counts of one run: an epoch's, the longest batch's, and what is read and written at its end."""
    totals = lengths["train"].totals
    longest = numpy.sort(totals)[::-1][: protocol.batch_size]
    return {
        "train_tokens": int(totals.sum(dtype=numpy.int64)),
        "longest_batch_tokens": int(longest[0]) * len(longest),
        "validation_tokens": int(lengths["validation"].totals.sum(dtype=numpy.int64)),
        "test_tokens": int(lengths["test"].totals.sum(dtype=numpy.int64)),
        "output_tokens": len(lengths["test"].totals) * output_tokens,
    }


def least_bytes(total: int, trainable: int, precision: str) -> int:
    """Return what a run's weights, gradients and optimizer take: less than this it cannot need."""
    return (total - trainable) * WEIGHT_BYTES[precision] + trainable * TRAINED_BYTES

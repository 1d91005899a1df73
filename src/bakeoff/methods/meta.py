"""Models on the meta device, which has shapes but no values."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def masks_without_values() -> Iterator[None]:
    """Let transformers make masks as if it traced: then it does not read values to find simpler ones."""
    from transformers import masking_utils

    looked = masking_utils.is_tracing
    masking_utils.is_tracing = lambda *_: True
    try:
        yield
    finally:
        masking_utils.is_tracing = looked

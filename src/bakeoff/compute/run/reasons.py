"""Why a run failed, in one line, and the kind of the cause. It loads no torch."""

from bakeoff.errors import BakeoffError, DivergedError, MemberError
from bakeoff.library_errors import no_memory
from bakeoff.store.records import Cause


def explained(error: Exception) -> tuple[str, Cause]:
    """Return in one line why a run failed, and the cause's kind."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemberError):
        return text, error.cause
    if isinstance(error, BakeoffError):
        return text, "diverged" if isinstance(error, DivergedError) else "error"
    if isinstance(error, RuntimeError | MemoryError) and no_memory(error):
        cures = "protocol.gradient_checkpointing: true, or a smaller max_tokens or batch_size"
        return f"out of memory ({text.splitlines()[0]}). Try {cures}", "memory"
    return f"{type(error).__name__}: {text.splitlines()[0]}", "error"

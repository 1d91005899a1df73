"""How a process of an export answers: one line of JSON on standard output, whatever its libraries print."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError

from bakeoff.errors import BakeoffError
from bakeoff.library_errors import in_short


def answer(work: Callable[..., dict[str, Any]]) -> None:
    """Do the work that standard input asks for, and print its result."""
    asked = json.loads(sys.stdin.read())
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(result_of(work, asked)), file=channel, flush=True)


def result_of(work: Callable[..., dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any]:
    """Return what the work gives, or {"error": line} if the user can fix what is wrong."""
    try:
        return work(**asked)
    except BakeoffError as error:
        return {"error": str(error)}
    except (OSError, SafetensorError) as error:  # a full disk, as Python or safetensors words it
        reason = getattr(error, "strerror", None) or in_short(error)
        return {"error": f"{asked.get('output')}: cannot be written ({reason}). Try: -o FOLDER, on another disk"}

"""`bakeoff serve` in which no token ends an output: each has the asked number of tokens. Takes serve's arguments.

How many tokens two entries write of the same requests is then equal, and so are their batches; what an adapter was
trained for makes no difference to a speed.
"""

import sys
from dataclasses import replace
from typing import Any

from bakeoff.cli.main import main
from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.request import Request


class Endless(Engine):
    """An engine whose outputs end at their number of tokens alone."""

    def submit(self, name: str | None, request: Request) -> int:
        """Let a request wait, and no token end its output."""
        return super().submit(name, replace(request, ends=frozenset()))


if __name__ == "__main__":
    engine: Any = sys.modules[Engine.__module__]
    engine.Engine = Endless
    main(["serve", *sys.argv[1:]])

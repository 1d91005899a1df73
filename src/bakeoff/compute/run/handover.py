"""What a run's process gets from the process that forked it, and leaves for the run's next one. It loads no torch."""

import json
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bakeoff.compute.model.team import Team
    from bakeoff.compute.run.lender import Lender
    from bakeoff.compute.run.rank_host import Elsewhere
    from bakeoff.compute.run.resident import Resident


class Handover:
    """A file without a name: the system removes it however its processes end."""

    def __init__(self) -> None:
        self.file = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - open as long as its owner

    def leave(self, trained: dict[str, Any]) -> None:
        """Leave what was trained, as plain data, for the run's next process."""
        self._write({**self._read(), "trained": trained})

    def left(self) -> dict[str, Any] | None:
        """Return what the run's first process has trained; None if it left nothing."""
        return self._read().get("trained")

    def tell(self, base_loss: float) -> None:
        """Leave the base's loss on the probe for the runs after this one."""
        self._write({**self._read(), "base_loss": base_loss})

    def told(self) -> float | None:
        """Return the base's loss on the probe; None if this run had no need of it."""
        return self._read().get("base_loss")

    def _write(self, content: dict[str, Any]) -> None:
        self.file.seek(0)
        self.file.truncate()
        json.dump(content, self.file)
        self.file.flush()

    def _read(self) -> dict[str, Any]:
        self.file.seek(0)
        text = self.file.read()
        return json.loads(text) if text else {}


@dataclass(frozen=True)
class Given:
    """What a run has from the process that forked its own, or from the runs before it in the same process.

    With a `handover` a final run of an entry has two processes: the first one trains, the second one evaluates the
    saved adapter. A `lender` has the base of all runs of a process.
    """

    resident: "Resident | None" = None
    handover: Handover | None = None
    lender: "Lender | None" = None
    device: str | None = None  # of the run, as machine.device names one; None: that of the config
    beside: int = 0  # how many other runs may have the same device at the same time
    team: "Team | None" = None  # the processes that share the run; None: it has one, or has not started the others
    elsewhere: "Elsewhere | None" = None  # the other machines that some of these are on


NOTHING = Given()

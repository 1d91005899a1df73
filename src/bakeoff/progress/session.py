"""A session: a bakeoff from one start of it to that start's end. One that resumes has several, each with its plan."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.display import Display
from bakeoff.progress.eta import Forecast, measured_before
from bakeoff.progress.open import open_display
from bakeoff.store.event_log import earlier_events
from bakeoff.store.events import Start
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Step
from bakeoff.store.run_folder import Folder


@dataclass(frozen=True)
class Session:
    """What a session begins with.

    `done` are ids of runs that are not repeated, `again` those of trained runs whose outputs are made or scored again,
    and `steps` says how many each trial has taken before.
    """

    folder: Folder
    plan: PlanDocument
    protocol: ProtocolConfig
    done: Sequence[str]
    steps: Mapping[str, int]
    again: Mapping[str, Step] = field(default_factory=dict)

    @classmethod
    def to_come(cls, folder: Folder, plan: PlanDocument, protocol: ProtocolConfig) -> "Session":
        """Return the next session of a folder with this plan, by the records that are there."""
        left = {run.id: folder.left_to_do(run.id, plan) for run in plan.runs if run.kind != "trial"}
        tried = {run.id: folder.run(run.id).result() for run in plan.runs if run.kind == "trial"}
        done = sorted(run_id for run_id, step in left.items() if step == "nothing")
        again = {run_id: step for run_id, step in left.items() if step in ("decode", "score")}
        steps = {run_id: result.steps or 0 for run_id, result in tried.items() if result}
        return cls(folder, plan, protocol, done, steps, again)

    @classmethod
    def begun(cls, folder: Folder, protocol: ProtocolConfig, start: Start) -> "Session | None":
        """Return the session of a start line; None where a later session has replaced its plan since."""
        plan = folder.plan()
        if start.plan not in (None, plan_hash(plan)):
            return None
        return cls(folder, plan, protocol, start.done, start.steps, start.again)

    def start(self) -> Start:
        """Return the event that it begins with."""
        facts = {"done": list(self.done), "steps": dict(self.steps), "again": dict(self.again)}
        return Start.model_validate({**facts, "plan": plan_hash(self.plan)})

    def display(self, kind: str, start: Start | None = None, clock: Callable[[], float] | None = None) -> Display:
        """Return a display of this session called `kind`, whose forecast knows what sessions before it measured.

        `start` is its line in the event log, None where it is not there yet; `clock` gives seconds.
        """
        clock, runs = clock or time.monotonic, self.plan.runs
        rates = measured_before(earlier_events(self.folder.events_file, start), runs, self.plan, self.protocol)
        forecast = Forecast(runs, self.plan, self.protocol, self.done, self.steps, clock, rates, self.again)
        return open_display(kind, runs, self.done, forecast, clock=clock)


def plan_hash(plan: PlanDocument) -> str:
    """Return a hash by which a session knows its plan: of its runs, and of how outputs are made and scored."""
    content = [[run.id for run in plan.runs], plan.decoding, plan.scoring]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]

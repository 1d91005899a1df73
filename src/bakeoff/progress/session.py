"""A session: one call of `bakeoff run`, from start to end. A bakeoff that resumes has several, each with its plan."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bakeoff.config.planned import planned_config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.progress.display import Display
from bakeoff.progress.eta import Forecast, measured_before
from bakeoff.progress.open import open_display
from bakeoff.store.content_hash import hash_of
from bakeoff.store.event_log import earlier_events
from bakeoff.store.events import Start
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Step
from bakeoff.store.run_folder import Folder


@dataclass(frozen=True)
class Session:
    """A plan, and in `start` the event with which the session begins: what is done already."""

    folder: Folder
    plan: PlanDocument
    protocol: ProtocolConfig
    start: Start

    @classmethod
    def to_come(
        cls,
        folder: Folder,
        plan: PlanDocument,
        protocol: ProtocolConfig,
        left: Mapping[str, Step | SetupError],
        workers: int = 1,
    ) -> "Session":
        """Return the next session of a folder with this plan; `left` is to do for each run that is not a trial.

        It carries out as many runs at a time as it has `workers`.
        """
        tried = {run.id: folder.run(run.id).result() for run in plan.runs if run.kind == "trial"}
        done = sorted(run_id for run_id, step in left.items() if step == "nothing")
        again = {run_id: step for run_id, step in left.items() if step in ("decode", "score")}
        steps = {run_id: result.steps or 0 for run_id, result in tried.items() if result}
        facts = {"done": done, "steps": steps, "again": again, "plan": plan_hash(plan), "workers": workers}
        return cls(folder, plan, protocol, Start.model_validate(facts))

    @classmethod
    def begun(cls, folder: Folder, start: Start) -> "Session | None":
        """Return the session of a start line; None if a later session has replaced its plan since."""
        plan = folder.plan()
        if start.plan not in (None, plan_hash(plan)):
            return None
        return cls(folder, plan, planned_config(folder, plan).protocol, start)

    def display(self, kind: str, clock: Callable[[], float] = time.monotonic) -> Display:
        """Return a display of this session called `kind`, whose forecast uses measurements of earlier sessions."""
        rates = measured_before(earlier_events(self.folder.events_file, self.start), self.plan, self.protocol)
        return open_display(kind, self.plan.runs, self.start.done, Forecast(rates, self.start, clock), clock=clock)


def plan_hash(plan: PlanDocument) -> str:
    """Return a hash that identifies a session's plan: of its runs, and of how outputs are made and scored."""
    return hash_of([[run.id for run in plan.runs], plan.decoding, plan.scoring])

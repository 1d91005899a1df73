"""The range of seeds in rounds is chosen once, before a look at results: another one would void the error rate."""

from collections import Counter
from collections.abc import Sequence

from bakeoff.analysis.replay import in_rounds
from bakeoff.config.config import Config
from bakeoff.errors import ConfigError, SetupError
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Run
from bakeoff.store.run_folder import Folder


def check_rounds(config: Config, folder: Folder) -> None:
    """Raise an error if seeds in rounds would void the error rate: two of few entries, or another range after a look.

    Before all entries have the first number of seeds, nothing was looked at.
    """
    looks = list(config.protocol.looks)
    if looks[:1] == [2] and len(config.entries) < 4:
        raise ConfigError(
            f"protocol.seeds.min: 2 seeds of {len(config.entries)} entries are too few to know their spread at the "
            "first look. Allowed: 2 from four entries on, else 3 or more"
        )
    before = plan_before(config, folder)
    if before and before.looks and before.looks != looks and looked_at(folder, before):
        raise SetupError(
            f"protocol.seeds: results were looked at while seeds went from {before.looks[0]} to {before.looks[-1]}; "
            f"another range now would void the error rate of 5 %. Try: seeds: {{min: {before.looks[0]}, max: "
            f"{before.looks[-1]}}}, or a new bakeoff with -s output=FOLDER and another protocol.seed"
        )


def plan_before(config: Config, folder: Folder) -> PlanDocument | None:
    """Return the last plan of this bakeoff; None if it has none, or the folder is another one's."""
    before = folder.last_plan()
    return before if before and before.name == config.name else None


def looked_at(folder: Folder, plan: PlanDocument) -> bool:
    """Return whether all entries of a plan in rounds that take part in the looks have had the first number of seeds."""
    finals = [run.id for run in plan.runs if run.kind == "entry"]
    records = {run_id: folder.run(run_id).finished() or folder.run(run_id).result() for run_id in finals}
    looking = in_rounds(plan, records)
    done = [sum(bool((r := records[run.id]) and r.status == "done") for run in group) for group in looking.values()]
    return bool(done) and min(done) >= plan.looks[0]


def check_fixed(config: Config, folder: Folder, runs: Sequence[Run]) -> None:
    """Raise SetupError if the first look of a range was taken while the number of seeds was fixed: that is a choice."""
    looks, before = config.protocol.looks, plan_before(config, folder)
    if not looks or before is None or before.looks:
        return
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.kind == "entry":
            groups.setdefault(run.entry, []).append(run)
    if all(folder.run(run.id).finished() for group in groups.values() for run in group[: looks[0]]):
        fixed = max(Counter(run.entry for run in before.runs if run.kind == "entry").values())
        raise SetupError(
            f"protocol.seeds: results of {fixed} seeds were looked at; a range now would void the error rate of 5 %. "
            f"Try: seeds: {fixed}, or a new bakeoff with -s output=FOLDER and another protocol.seed"
        )

"""Whether a run folder belongs to this bakeoff, and what has changed since the last session.

The id of a run has everything that determines its training, so results of another config, data, base or version are
never mixed in. Runs that a change affects get other ids and are run; the others are kept, and are only decoded or
scored again where their outputs or metrics changed (`RunFolder.left_to_do`). Earlier runs stay on disk, and are used
again if the change is undone.
"""

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bakeoff.config.config import Config
from bakeoff.config.loading import dump_config, load_config
from bakeoff.config.planned import planned_config
from bakeoff.driver.device import first_device
from bakeoff.driver.plan import Plan
from bakeoff.driver.trust import is_own
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.progress.session import plan_hash
from bakeoff.store.checksums import read_whole
from bakeoff.store.files import write_json, write_text
from bakeoff.store.ownership import claim, refuse_foreign, refuse_inside, refuse_links
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.records import Step
from bakeoff.store.run_folder import Folder
from bakeoff.store.signature import signature

# Parts of the config that no result depends on.
FREE_TO_CHANGE = re.compile(
    r"output|machine\..*|(price|judge)(\..*)?|safety\..*|trackers|protocol\.(trunk_cache|gradient_checkpointing)"
)


def check_free(folder: Folder, config: Config) -> None:
    """Raise SetupError if the run folder contains anything but this bakeoff, which is recognised by its name.

    So it does if the folder is inside another bakeoff's.
    """
    refuse_inside(folder.path, "-s output=FOLDER, another place")
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        raise SetupError(f"{folder.path}: is a file, expected a folder. Try: another name, or -s output=FOLDER")
    refuse_foreign(folder)
    refuse_links(folder)
    name = name_of(folder)
    if name not in (None, config.name):
        raise SetupError(f"{folder.path}: contains another bakeoff, '{name}'. Try: -s output=FOLDER, another folder")


def name_of(folder: Folder) -> str | None:
    """Return the name of the bakeoff in a folder, by its config where the plan of its runs is lost."""
    plan = folder.last_plan()
    if plan or not folder.runs_folder.exists():
        return plan.name if plan else None
    with suppress(BakeoffError):  # no config either
        return load_config(folder.config_file).name
    return None


def left_to_do(folder: Folder, plan: PlanDocument) -> dict[str, Step | SetupError]:
    """Return what is left to do for each run that is not a trial, or why its files cannot be read now."""
    left: dict[str, Step | SetupError] = {}
    for run in plan.runs:
        if run.kind != "trial":
            try:
                left[run.id] = folder.run(run.id).left_to_do(plan)
            except SetupError as error:
                left[run.id] = error
    return left


def prepare(folder: Folder, config: Config, planned: Plan, left: Mapping[str, Step | SetupError]) -> list[str]:
    """Write config, plan, environment and examples; return what has changed, one line per change.

    `left` says what is left to do for each run that is not a trial.
    """
    before, notes = folder.last_plan(), []
    if before and plan_hash(before) != plan_hash(planned.document):
        notes.append(change_note(folder, config, before, planned, Counter(left.values())))
    text = dump_config(config)
    before_it = signature(read_whole(folder.config_file)) if is_own(folder) else None
    claim(folder, signature(text.encode()), before_it)
    planned.data.complete()
    write_text(folder.config_file, text)
    notes += [] if planned.again else renew_environment(folder, first_device(config.machine))
    write_json(folder.plan_file, planned.document.row())
    return notes


def change_note(
    folder: Folder, config: Config, before: PlanDocument, planned: Plan, left: Counter[Step | SetupError]
) -> str:
    """Return in one line what has changed since the last plan, and what happens to the finished runs.

    `left` counts the runs by what is left to do for them.
    """
    what = ", ".join(changes(folder, config, before, planned)) or "the plan"
    stay = {run.id for run in planned.runs}
    others = sum(folder.is_complete(run.id, before) for run in before.runs if run.id not in stay)
    line = f"changed since the last session: {what}. Finished runs that are still used: {left['nothing']}"
    if left["score"]:
        line += f"; whose outputs are scored again: {left['score']}"
    if left["decode"]:
        line += f"; whose outputs are decoded again, without training: {left['decode']}"
    if others:
        line += f"; that are no longer used: {others} (they stay on disk, and are used again if the change is undone)"
    return line


def changes(folder: Folder, config: Config, before: PlanDocument, planned: Plan) -> list[str]:
    """Return the names of what differs from the last plan: data and base by their content, the version, config keys."""
    now = planned.document
    changed = [
        label
        for label, one, other in (
            ("the data", before.data.identity, now.data.identity),
            ("the base", before.model.identity, now.model.identity),
            ("bakeoff's version", before.version, now.version),
            ("the precision", before.precision, now.precision),
        )
        if one != other
    ]
    try:
        there = flatten(planned_config(folder, before).model_dump())
    except BakeoffError:  # damaged
        return changed
    here = flatten(config.model_dump())
    differing = [key for key in there | here if there.get(key) != here.get(key)]
    return changed + [key for key in differing if not FREE_TO_CHANGE.fullmatch(key)]


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def renew_environment(folder: Folder, device: str) -> list[str]:
    """Write the environment block. If it has changed, keep the former one in it, and return the change as a line.

    Then remove what a killed session has stored of the trunk: another version may compute it differently.
    """
    from bakeoff.driver.environment import environment

    before, now = folder.environment(), environment(device)
    ignored = {"date", "changes"}
    changed = [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]
    changed = [change for change in changed if change.partition(" ")[0] not in ignored]
    if before and not changed:
        return []
    folder.clear_trunk()
    if before:
        earlier = [before["changes"]] if before.get("changes") else []
        now["changes"] = "; ".join([*earlier, *changed])
    write_json(folder.environment_file, now)
    return [f"the machine has changed: {'; '.join(changed)}. Finished runs are kept"] if changed else []

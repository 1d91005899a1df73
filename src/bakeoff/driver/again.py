"""The plan of a finished bakeoff in which only metrics, trackers and limits may have changed: its last one, rescored.

It is made without torch and the base, whose shapes, lengths and ids stay as they are.
"""

from bakeoff.config.config import Config
from bakeoff.config.planned import planned
from bakeoff.data.shared import SharedData
from bakeoff.driver.entries import checked_entries, virtual_tokens
from bakeoff.driver.environment import machine
from bakeoff.driver.plan import Plan, basis_of, held_equal_by, in_ids, prepared_data, scores_by, without_scores
from bakeoff.driver.trust import is_own
from bakeoff.hub import base_files
from bakeoff.scoring.metrics import blind_spots
from bakeoff.store.content_hash import remember
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.run_folder import Folder


def unchanged(config: Config, folder: Folder) -> PlanDocument | None:
    """Return the last plan where all runs are finished and what has changed, apart from data, is in `plan_again`."""
    before = folder.last_plan()
    if before is None or not is_own(folder) or not finished(folder, before) or not same_machine(folder):
        return None
    return before if before.basis == basis_of(config, before) else None


def plan_again(config: Config, folder: Folder, shared: SharedData | None = None) -> Plan | None:
    """Return the plan; `shared` is as in `make_plan`.

    None where a run is not finished, or anything but `metrics`, `primary`, `safety` and `trackers` has changed.
    """
    before = unchanged(config, folder)
    if before is None:
        return None
    remember(base_files(config.model, config.pin), before.model.files, before.model.weights)
    splits, _, _ = (shared or SharedData()).examples(config, must_read=True)
    held_equal = held_equal_by(
        config, splits, before.max_tokens, before.texts,
        precision=before.precision, template=before.template, rungs=before.rungs, **in_ids(before.chat),
    )  # fmt: skip
    data = prepared_data(folder, config, splits, held_equal)
    if data.data_fingerprint != before.data_fingerprint or not data.is_current():
        return None
    row, entries = before.row(), checked_entries(config, max(entry.steps for entry in before.entries.values()))
    findings = [*without_scores(before.data.findings), *blind_spots(config.metrics, splits["test"])]
    row |= {
        "data": row["data"] | {"findings": findings},
        "config": planned(config),
        **scores_by(config, splits["test"]),
    }
    document = PlanDocument.model_validate(row)
    return Plan(config, document, entries, document.runs, held_equal, virtual_tokens(entries), data, again=True)


def finished(folder: Folder, plan: PlanDocument) -> bool:
    """Return whether every run of a plan has come to its end, its outputs made as planned."""
    records = [folder.run(run.id).finished() for run in plan.runs if run.kind != "trial"]
    return all(record is not None and record.decoding == plan.decoding for record in records)


def same_machine(folder: Folder) -> bool:
    """Return whether versions and hardware are those that the folder's environment has."""
    before = folder.environment()
    return all(before.get(name) == fact for name, fact in machine().items())

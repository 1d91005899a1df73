"""The layout of a run folder: where each file is. Reads files completely, or reports them as damaged."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bakeoff.errors import SetupError
from bakeoff.store.checksums import damaged, digest, digests, fault_of, read_mapping, sealed, unsealed
from bakeoff.store.documents import (
    CurveRow,
    EnvironmentRow,
    ExampleRow,
    MadeRow,
    PredictionRow,
    result_fault,
    run_fault,
    whole,
)
from bakeoff.store.files import read_jsonl, remove_named, write_json
from bakeoff.store.plan_document import PlanDocument, stored_plan
from bakeoff.store.records import OUTPUTS, Run, RunResult, Step
from bakeoff.store.schema import refuse_other_form

SPLITS = ("train", "validation", "test")
CHECKPOINT = r"\d{9}-[0-9a-f]{64}\.safetensors|\.\d+\.tmp"  # names of a run's checkpoints, and of one not finished
TRUNK = r"(train|validation)-(encoder|\d+)-(fp32|bf16|fp16)(-nf4|-int8)?\.(bin|tmp)|\.lock"
PLAN_KEYS = {"name", "model", "data", "entries", "runs"}  # by which a bakeoff's plan is told from another program's
SLOTS, SLOT = ".slots", r"[0-9a-f]{16}"  # the folder of cluster's slots, and the names in it


def read_result(file: Path) -> RunResult | None:
    """Return the record in a file, or None if it is missing or damaged; raise SetupError if it may not be read."""
    with suppress(ValueError, TypeError):  # changed since, or a later version's
        row = unsealed(read_mapping(file))
        return None if result_fault(row) else RunResult.from_json(row)
    return None


class RunFolder:
    """Names of the files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.run_file = path / "run.json"  # the run as it was started last
        self.checkpoints = path / "checkpoints"  # there while the run may go on
        self.result_file = path / "result.json"
        self.earlier_file = path / "earlier.json"  # its record of before, while its outputs are made or scored again
        self.metrics_file = path / "metrics.jsonl"
        self.predictions_file = path / OUTPUTS
        self.log_file = path / "log.txt"
        self.adapter = path / "adapter"

    def forget_checkpoints(self) -> None:
        """Delete the run's checkpoints."""
        remove_named(self.checkpoints, CHECKPOINT)

    def remove(self) -> None:
        """Delete everything that a trial has left."""
        self.forget_checkpoints()
        remove_named(self.path, r"(run|result|earlier)\.json|(metrics|predictions)\.jsonl|log\.txt")

    def run(self) -> Run:
        """Return the run as the driver started it; raise SetupError if it was never started."""
        started = read_mapping(self.run_file)
        if started.get("id") != self.path.name or run_fault(started):
            raise SetupError(f"{self.path}: no run was started here (no run.json)")
        return Run(**started)

    def result(self) -> RunResult | None:
        """Return the run's result, or None if it is missing or damaged; raise SetupError if it may not be read."""
        return read_result(self.result_file)

    def finished(self) -> RunResult | None:
        """Return the record of this run's end, even if a later session continued it and failed."""
        for file in (self.result_file, self.earlier_file):
            record = read_result(file)
            if record and record.status == "done":
                return record
        return None

    def left_to_do(self, plan: PlanDocument) -> Step:
        """Return what is left to do (train, decode, score or nothing) so that this run matches `plan`.

        The run is a baseline or a final run.
        """
        record = self.finished()
        if record is None:
            return "train"
        if self.damaged_training(record):
            return "train"
        outputs = {name: mark for name, mark in record.files.items() if name not in record.trained_files}
        if record.decoding != plan.decoding or damaged(self.path, outputs):
            return "decode"
        if record.scoring != plan.scoring or not self.done():
            return "score"
        return "nothing"

    def damaged_training(self, record: RunResult) -> Path | None:
        """Return a file of a finished training that is damaged or missing, or None if all are complete."""
        return damaged(self.path, record.trained_files)

    def set_aside(self) -> None:
        """Keep the record of a finished training while its outputs or scores are made again."""
        if self.done():
            self.result_file.replace(self.earlier_file)
        self.result_file.unlink(missing_ok=True)

    def forget_results(self) -> None:
        """Delete the records of a training that will run again."""
        for file in (self.result_file, self.earlier_file, self.predictions_file):
            file.unlink(missing_ok=True)

    def done(self) -> bool:
        """Return whether the run has ended without a failure."""
        result = self.result()
        return result is not None and result.status == "done"

    def write_result(self, result: RunResult, known: Mapping[str, str] | None = None) -> None:
        """Write result.json with a checksum of itself and, unless the run failed, of all files that the run left.

        Checksums that are `known` stay as they are.
        The adapter's card is left out: it is written with the results, and may be edited.
        """
        if result.status != "failed":
            adapter = (file for file in self.adapter.rglob("*") if file.is_file() and file.suffix != ".md")
            left = (file for file in (self.metrics_file, self.predictions_file) if file.exists())
            result.files = digests(self.path, [*adapter, *left], known)
        write_json(self.result_file, sealed(asdict(result)))
        if result.status == "done":
            self.earlier_file.unlink(missing_ok=True)

    def check(self) -> RunResult | None:
        """Return the run's result; raise SetupError if a file that belongs to it is damaged or missing."""
        result = self.result()
        broken = damaged(self.path, result.files) if result else None
        if broken:
            raise SetupError(f"{broken}: {fault_of(broken)}")
        return result

    def curve(self) -> list[CurveRow]:
        """Return the rows of metrics.jsonl."""
        return list(read_jsonl(self.metrics_file, CurveRow.model_validate_json)) if self.metrics_file.exists() else []

    def predictions(self) -> list[PredictionRow]:
        """Return one row per test example, in test order."""
        file = self.predictions_file
        return list(read_jsonl(file, PredictionRow.model_validate_json, torn=False)) if file.exists() else []


class Folder:
    """Names of the files of one bakeoff.

    A slot of a cluster has a `place` of its own below `slots`, with its own runs; all other files are the bakeoff's.
    """

    def __init__(self, place: str | Path):
        self.place = Path(place)
        of_slot = self.place.parent.name == SLOTS and re.fullmatch(SLOT, self.place.name)
        self.path = self.place.parent.parent if of_slot else self.place
        self.config_file = self.path / "config.yaml"
        self.plan_file = self.path / "plan.json"
        self.environment_file = self.path / "environment.json"
        self.made_file = self.path / "data/made.json"  # of what examples and tokens were made, and their checksums
        self.events_file = self.path / "events.jsonl"
        self.results_file = self.path / "results.json"
        self.csv_file = self.path / "results.csv"
        self.markdown_file = self.path / "results.md"
        self.report_file = self.path / "report.html"
        self.figures = self.path / "figures"  # each figure of the report as SVG and CSV
        # Of people, and of a judge model, about pairs of outputs.
        self.votes_file, self.judge_file = self.path / "votes.jsonl", self.path / "judge.jsonl"
        self.lock_file = self.path / ".lock"
        self.tag_file = self.path / ".bakeoff"  # that a bakeoff made this folder (`ownership`)
        self.runs_folder = self.place / "runs"
        self.trunk = self.path / "trunk"  # there while runs go on
        self.jobs = self.path / "jobs"  # what is said between the driver and jobs of Slurm, while there are any
        self.slots = self.path / SLOTS  # of a cluster's slots, while there are any (`driver.slot_folder`)

    def run(self, run_id: str) -> RunFolder:
        """Return the folder of one run; raise SetupError if its id is not a name, as in a forged plan."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run_id):
            raise SetupError(f"{self.path}: {run_id!r:.80}: not the id of a run")
        return RunFolder(self.runs_folder / run_id)

    def clear_trunk(self) -> None:
        """Delete the trunk cache."""
        remove_named(self.trunk, TRUNK)

    def is_complete(self, run_id: str, plan: PlanDocument) -> bool:
        """Return whether a run is done as planned, and all files that it left are still as they were written."""
        try:
            return self.run(run_id).left_to_do(plan) == "nothing"
        except SetupError:  # may not be read
            return False

    def result(self, run_id: str, plan: PlanDocument) -> RunResult | None:
        """Return a run's record, or None if it has no record with the plan's outputs and scores yet."""
        result = self.run(run_id).result()
        if result and result.status == "done":
            as_planned = (result.decoding, result.scoring) == (plan.decoding, plan.scoring)
            return result if as_planned else None
        return result

    def examples_file(self, split: str) -> Path:
        """Return the JSONL of a split's examples as every run reads them."""
        return self.path / "data" / f"{split}.jsonl"

    def tokens_file(self, split: str) -> Path:
        """Return the file of a split's token ids, in the order of its examples."""
        return self.path / "data" / f"{split}.tokens.bin"

    def examples(self, split: str) -> Iterator[ExampleRow]:
        """Yield a split's examples."""
        return read_jsonl(self.examples_file(split), ExampleRow.model_validate_json, torn=False)

    def plan(self) -> PlanDocument:
        """Return plan.json; raise SetupError if this is not a run folder, or plan.json is damaged."""
        plan = read_mapping(self.plan_file)
        if not plan.keys() >= PLAN_KEYS:
            if self.plan_file.exists() and self.tag_file.exists():
                raise SetupError(f"{self.plan_file}: damaged (not a plan). Try: bakeoff run again")
            fault = "not a run folder of bakeoff (plan.json is missing)" if self.path.exists() else "no such folder"
            raise SetupError(f"{self.path}: {fault}. Try: ls bakeoffs")
        refuse_other_form(self.plan_file, plan)
        try:
            return stored_plan(plan)
        except ValueError as error:
            raise SetupError(f"{self.plan_file}: damaged ({error}). Try: bakeoff run again") from None

    def last_plan(self) -> PlanDocument | None:
        """Return plan.json, or None if it cannot be read or belongs to another program.

        Raises SetupError if another version made it with another schema, because it then only looks damaged.
        """
        plan = read_mapping(self.plan_file)
        if plan.keys() >= PLAN_KEYS:
            refuse_other_form(self.plan_file, plan)
            with suppress(ValueError):  # damaged
                return stored_plan(plan)
        return None

    def planned(self) -> bool:
        """Return whether a bakeoff has made its plan here; a damaged plan counts if the tokens' manifest is there."""
        plan = read_mapping(self.plan_file)
        damaged_plan = self.plan_file.exists() and (not plan or plan.keys() >= PLAN_KEYS)
        return self.last_plan() is not None or (damaged_plan and bool(self.made()))

    def made(self) -> dict[str, Any]:
        """Return data/made.json, or an empty mapping if it cannot be read."""
        return whole(MadeRow, read_mapping(self.made_file))

    def environment(self) -> dict[str, Any]:
        """Return environment.json, or an empty mapping if it cannot be read."""
        return whole(EnvironmentRow, read_mapping(self.environment_file))

    def holds(self, data_fingerprint: str) -> bool:
        """Return whether the examples and tokens of all splits exist, are complete, and were made from this data."""
        made = self.made()
        return made.get("data_fingerprint") == data_fingerprint and damaged(self.path, made["files"]) is None

    def runs(self) -> list[Run]:
        """Return the planned runs in order."""
        return self.plan().runs

    def trials(self, entry: str, plan: PlanDocument | None = None) -> list[Run]:
        """Return an entry's trials in order: the planned ones, and those that were started after the plan.

        `plan` is the plan of this folder, if the caller has read it already.
        """
        plan = plan or self.plan()
        runs = [run for run in plan.runs if run.kind == "trial" and run.entry == entry]
        fields = plan.entries[entry].search if runs else {}
        known, searches, later = {run.id for run in runs}, {run.search for run in runs}, list[Run]()
        for file in sorted(self.path.glob(f"runs/{entry}-*/run.json")):  # an id begins with its entry's name
            if file.parent.name not in known:
                with suppress(SetupError):  # damaged
                    started = RunFolder(file.parent).run()
                    searched = all(span.holds(started.settings.get(name)) for name, span in fields.items())
                    if started.kind == "trial" and started.search in searches and searched:
                        later.append(started)
        return [*runs, *sorted(later, key=lambda run: run.trial or 0)]

    def content_hash(self) -> str:
        """Return a hash of all that results.json is made from; what the config says is in the plan and the examples."""
        files = [self.plan_file, self.made_file, self.environment_file, self.votes_file, self.judge_file]
        files += self.path.glob("runs/*/result.json")
        named = sorted((file.relative_to(self.path).as_posix(), digest(file)) for file in files if file.exists())
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

"""What a bakeoff records: runs and results, as plain data. Workers write them; everything else reads them."""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["baseline", "trial", "entry"]
Quantize = Literal["none", "nf4", "int8"]  # how the matrices of a run's base are stored; none: as in its files
# Why a run failed. Only what diverged would do so again: the others are tried again by the next `bakeoff run`.
Cause = Literal["diverged", "memory", "ended", "stalled", "error"]
# What is left to do of a planned run: an earlier step brings the later ones with it. `time` is an exclusive timing of a
# run that is finished.
Step = Literal["train", "decode", "score", "time", "nothing"]
ALONE = "tokens_per_second_alone"  # a cost: of a run that shared its device, timed again without others
OUTPUTS = "predictions.jsonl"  # the file of a run's outputs and their scores


@dataclass(frozen=True)
class Run:
    """One training (or one baseline's evaluation): an entry, its settings and a seed.

    A trial is one of an entry's `search` (a hash of it and of all that is held equal), counted from 1; `until` is the
    step that it goes to for now, None for the end. `adopts` is the trial of the same settings and seed whose
    checkpoint the run continues. `steps` is the maximum. `quantize` is of its base.
    """

    id: str
    entry: str
    kind: Kind
    method: str
    settings: dict[str, Any]
    seed: int
    steps: int | None = None
    trial: int | None = None
    search: str | None = None
    until: int | None = None
    adopts: str | None = None
    quantize: Quantize = "none"


@dataclass(frozen=True)
class Task:
    """A run that is to be carried out now, and what is left to do of it."""

    run: Run
    left: Step


@dataclass
class RunResult:
    """A run's result.json. Metrics are `split/name`; what was not measured is None.

    Costs: train_seconds (optimizer steps only), setup_seconds, evaluation_seconds, generation_seconds (with the test
    loss, where prompts are read once for both), peak_bytes (training), evaluation_peak_bytes, tokens_per_second (real
    tokens in training), adapter_bytes, skipped_steps (in fp16, where gradients left its range). Losses beside the
    splits': train_sample/loss (as many training examples as there are validation examples, dropout off), neutral/loss.
    """

    run: Run
    status: Literal["done", "failed", "paused"]  # paused: a trial that has not taken all its steps
    error: str | None = None
    cause: Cause | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    learning_rate: float | None = None
    steps: int | None = None
    best_step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    check_notes: dict[str, str] = field(default_factory=dict)  # what is wrong, of the checks that failed
    files: dict[str, str] = field(default_factory=dict)  # the SHA-256 of each of the run's other files
    decoding: str | None = None  # a hash of the generation settings that its outputs were made by; a trial has none
    scoring: str | None = None  # a hash of the metrics, and of their code, that its outputs were scored by
    instruction: str | None = None  # the text that the baseline `instruction` has found
    beside: int = 0  # how many other runs may have had its device at the same time, which its seconds depend on
    shards: int = 1  # processes that shared it, each with a device of its own, or a share of the processor's cores
    machines: int = 1  # that these were on

    @property
    def trained_files(self) -> dict[str, str]:
        """Of `files` all but the outputs."""
        return {name: mark for name, mark in self.files.items() if name != OUTPUTS}

    def check(self, name: str, complaint: str | None) -> None:
        """Record a check, which has passed if there is no complaint. A failed check does not end the run."""
        self.checks[name] = complaint is None
        if complaint is not None:
            self.check_notes[name] = complaint

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "RunResult":
        """Return the result of which `asdict` made this mapping."""
        return cls(**{**raw, "run": Run(**raw["run"])})

"""results.json as models: the source of `bakeoff report`, the page and `Results.document`. Other keys are kept."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from bakeoff.store.documents import Document, Figure, words
from bakeoff.store.plan_document import BaseFacts, DataFacts, MetricFacts, Products, Span

Interval = float | None  # an end of a 95 % interval; null where no interval can be computed


class MeanScore(Document):
    """A mean over the seeds of an entry, with its 95 % interval if it has one."""

    mean: float
    low: float | None = None
    high: float | None = None


class Difference(Document):
    """A paired difference, first - second. `p_adjusted` is p corrected for the number of pairs.

    `detectable` is the smallest gap that would be found in 80 of 100 such bakeoffs. `covers` says which chance the
    interval covers, for example that of documents and seeds.
    """

    difference: float
    low: Interval
    high: Interval
    p: float | None
    p_adjusted: float | None
    different: bool
    detectable: float | None
    covers: str


class Pair(Difference):
    """Two entries, or an entry and a baseline, compared on the score that ranks and on test loss."""

    first: str
    second: str
    loss: Difference | None


class Verdict(Document):
    """The conclusion of the comparison. `recommendations` has an entry for each preference."""

    headline: str
    text: str
    metric: str
    heading: str
    bounded: bool
    unit: str
    best: str | None
    tied_with_best: list[str]
    pairs: list[Pair]
    baseline_pairs: list[Pair]
    detectable_gap: float | None
    covers: str
    documents: int
    recommendations: dict[str, str | None]


class TrialRow(Document):
    """One trial of an entry. `settings` has only the searched fields."""

    trial: int | None
    run: str
    settings: dict[str, Any]
    validation_loss: float | None
    steps: int | None
    status: Literal["done", "stopped", "failed", "paused", "waiting"]
    error: str | None


class Tuning(Document):
    """How an entry's settings were chosen. `edge` names the fields whose best value was the lowest or highest tried.

    `chosen` are the values of the searched fields, once a final run was started. `extended` is the result of the one
    trial past the edge: better, worse, failed, or "no room" if the field's bounds allow no further value. `seconds` are
    those of the trials' optimizer steps; those of the chosen trial also count for the final run of its seed.
    """

    label: str
    chosen: dict[str, Any] | None
    edge: dict[str, str]
    extended: str | None
    trials: list[TrialRow]
    seconds: float | None


class ResultsRow(Document):
    """An entry or a baseline, with what the plan says about it. `place` is the number of its bakeoff among several.

    `quantize` says how its base is stored; it is null for a baseline without a model.
    """

    kind: Literal["entry", "baseline"]
    method: str
    settings: dict[str, Any]
    quantize: str | None = None
    status: Literal["done", "failed", "unfinished", "not run"]
    error: str | None
    seeds: int
    runs: list[str]
    metrics: dict[str, MeanScore]
    costs: dict[str, float | None]
    checks: dict[str, bool]
    check_notes: dict[str, str]
    converged: bool | None
    improved: bool | None
    trainable_parameters: int | None
    total_parameters: int | None
    learning_rate: Figure | None
    steps: int | None
    best_step: int | None
    tuning: Tuning | None
    trials: int = 0
    trial_steps: int = 0
    search: dict[str, Span] = Field({})
    trial_points: list[dict[str, Figure]] = Field([])
    least_bytes: Figure | None = None
    trainable_percent: Figure | None = None
    packed_parameters: int = 0
    step_products: Products | None = None
    trunk_products: Products | None = None
    place: int = 0


class ResultsDocument(Document):
    """results.json, without its checksum and signature. Model, data and metrics are those of plan.json.

    `records` is a hash of everything that the results were made from. `notes` and `not_held_equal` exist only if
    several bakeoffs are compared, `of_entries` only if a view leaves entries out.
    """

    schema_version: Literal[3] = Field(alias="schema")
    name: str
    status: Literal["done", "failed", "incomplete"]
    model: BaseFacts
    data: DataFacts
    precision: Literal["fp32", "bf16", "fp16"]
    max_tokens: int
    output_tokens: int
    protocol: dict[str, Any]
    tune: dict[str, Any] | None
    generation: dict[str, Any]
    template: str
    chat: dict[str, Any] | None = None
    metrics: Annotated[list[MetricFacts], Field(min_length=1)]
    primary: str
    score_signature: str
    entries: dict[str, ResultsRow]
    baselines: dict[str, ResultsRow]
    verdict: Verdict
    environment: dict[str, Any]
    records: str
    notes: list[str] = Field([])
    not_held_equal: list[str] = Field([])
    of_entries: int | None = None

    @property
    def rows(self) -> dict[str, ResultsRow]:
        """All rows by name, entries first."""
        return self.entries | self.baselines


def interval_of(value: MeanScore | Difference) -> tuple[float, float] | None:
    """Return a value's 95 % interval, or None if it has none."""
    return None if value.low is None or value.high is None else (value.low, value.high)


def stored_results(row: dict[str, Any]) -> ResultsDocument:
    """Return the results in a run folder's results.json; raise ValueError, in words, if they are not results."""
    try:
        return ResultsDocument.model_validate(row)
    except ValidationError as error:
        raise ValueError(words(error)) from None

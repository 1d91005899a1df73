"""results.json as models: the source of `bakeoff report`, the page and `Results.document`. Other keys are kept."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from bakeoff.store.documents import Document, Figure, Text, words
from bakeoff.store.plan_document import BaseFacts, Choices, DataFacts, MetricFacts, Products, Span

Interval = float | None  # an end of a 95 % interval; null where no interval can be computed


class MeanScore(Document):
    """A mean over the seeds of an entry, with its 95 % interval if it has one."""

    mean: float
    low: float | None = None
    high: float | None = None


class Difference(Document):
    """A paired difference, first - second. `p_adjusted` is p corrected for the number of pairs.

    `detectable` is the smallest gap that would be found in 80 of 100 such bakeoffs. `covers` says which chance the
    interval covers, for example that of documents and seeds. `at_most` is the one-sided 95 % upper bound. With seeds
    in rounds, interval and p hold over all looks, and all values are of the last look at which both had `seeds`.
    """

    difference: float
    low: Interval
    high: Interval
    at_most: Interval = None
    p: float | None
    p_adjusted: float | None
    different: bool
    detectable: float | None
    covers: str
    seeds: int | None = None


class Pair(Difference):
    """Two entries, or an entry and a baseline, compared on the score that ranks and on test loss.

    With seeds in rounds, `state` says why a pair of entries got no more seeds, or that it is open.
    """

    first: str
    second: str
    loss: Difference | None
    state: Literal["different", "equal", "hopeless", "open"] | None = None


class LookRow(Document):
    """A difference first - second at one look, with an interval that holds over all looks."""

    first: str
    second: str
    seeds: int
    difference: float
    low: Interval
    high: Interval


class RoundsFacts(Document):
    """Seeds in rounds. `looks` were planned, so many are `taken`; `seeds` are those of each entry so far.

    `waiting` has how many seeds the next look needs of the entries that may still be told apart. `limit` is the
    detectable gap with any number of seeds. `rows` are the best entry's pairs at each look. `budget` is the one, in
    seconds, that has ended the rounds; null if none has.
    """

    looks: list[int]
    taken: int
    seeds: dict[str, int]
    waiting: dict[str, int]
    limit: float | None
    rows: list[LookRow]
    budget: float | None = None


class Verdict(Document):
    """The conclusion of the comparison.

    `maybe_best` are the entries among which the best one is, with 95 % confidence. `near_best` are those that are shown
    to be within `worth` of the best: the user's if `worth_given`, else half the detectable gap. `recommendations` has
    an entry for each preference.
    """

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
    maybe_best: list[str]
    worth: float | None
    worth_given: bool
    near_best: list[str]
    rounds: RoundsFacts | None = None
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

    `quantize` says how its base is stored; it is null for a baseline without a model. `instruction` is what the
    baseline of this name has found. `fresh_loss` is the mean validation loss of the final runs without the one that
    adopts a trial. `diverged` counts the trials and final runs whose loss diverged, of so many `trainings`. Up to
    `beside` other runs had its runs' device at the same time; seconds and tokens per second are those without them if
    it was `timed_alone`.
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
    instruction: str | None = None
    fresh_loss: float | None = None
    diverged: int = 0
    trainings: int = 0
    beside: int = 0
    timed_alone: bool = False
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
    search: dict[str, Span | Choices] = Field({})
    trial_points: list[dict[str, Figure | Text]] = Field([])
    least_bytes: Figure | None = None
    trainable_percent: Figure | None = None
    packed_parameters: int = 0
    step_products: Products | None = None
    trunk_products: Products | None = None
    place: int = 0


class Preference(Document):
    """How often people, or a judge model, prefer the outputs of `first` to those of `second`.

    `net` is the share of wins minus that of losses, with its 95 % interval. `by` says whose it is: people's alone,
    people's made more precise by the judge, or the judge's alone. `labels` counts documents with votes, `votes` these,
    `judged` documents that the judge has seen. `agreement` is how often the judge names people's winner where both have
    one, `flips` the share of documents whose winner changes with the order. `needed` is about how many labels would
    show a preference as large as this one. `judge_tokens` counts those of the judge's questions and answers.
    """

    first: str
    second: str
    by: Literal["people", "people and judge", "judge"]
    net: float
    low: Interval
    high: Interval
    p: float | None
    p_adjusted: float | None
    different: bool
    wins: float
    ties: float
    losses: float
    both_bad: float
    labels: int
    votes: int
    tasters: int
    judged: int
    seeds: int
    needed: int | None
    weight: float
    correlation: float | None
    agreement: float | None
    flips: float | None
    unanswered: int
    judge: str | None
    judge_net: float | None
    judge_tokens: int = 0
    notes: list[str]


class Price(Document):
    """What an hour of the runs' device costs; `hour` is null where the config has no price for such a device."""

    hour: Annotated[float, Field(gt=0)] | None
    device: Literal["GPU", "machine"]
    currency: str


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
    price: Price | None = None
    preferences: list[Preference] = Field([])
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

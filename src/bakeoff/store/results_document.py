"""results.json as typed dictionaries: the source of `bakeoff report`, the page and `Results.document`."""

from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

Interval: TypeAlias = float | None  # an end of a 95 % interval; null where no interval can be computed


class Score(TypedDict):
    """A mean over the seeds of an entry, with its 95 % interval if it has one."""

    mean: float
    low: NotRequired[float]
    high: NotRequired[float]


class Difference(TypedDict):
    """A paired difference, first - second. `p_holm` is p after Holm's correction; it is under 0.05 if `different`.

    `detectable` is the smallest gap that would be found in 80 of 100 such bakeoffs. `covers` says which chance the
    interval covers, for example that of documents and seeds.
    """

    difference: float
    low: Interval
    high: Interval
    p: float | None
    p_holm: float | None
    different: bool
    detectable: float | None
    covers: str


class Pair(Difference):
    """Two entries, or an entry and a baseline, compared on the score that ranks and on test loss."""

    first: str
    second: str
    loss: Difference | None


class Verdict(TypedDict):
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


class TrialRow(TypedDict):
    """One trial of an entry. `settings` has only the searched fields."""

    trial: int | None
    run: str
    settings: dict[str, Any]
    validation_loss: float | None
    steps: int | None
    status: Literal["done", "stopped", "failed", "paused", "waiting"]
    error: str | None


class Tuning(TypedDict):
    """How an entry's settings were chosen. `edge` names the fields whose best value was the lowest or highest tried.

    `extended` is the result of the one trial past that edge: better, worse, failed, or "no room".
    """

    label: str
    chosen: dict[str, Any] | None
    edge: dict[str, str]
    extended: str | None
    trials: list[TrialRow]
    seconds: float | None


class ResultsRow(TypedDict):
    """An entry or a baseline, with what the plan says about it. `place` is the number of its bakeoff among several.

    `quantize` says how its base is stored; it is null for a baseline without a model.
    """

    kind: Literal["entry", "baseline"]
    method: str
    settings: dict[str, Any]
    quantize: NotRequired[str | None]
    status: Literal["done", "failed", "unfinished", "not run"]
    error: str | None
    seeds: int
    runs: list[str]
    metrics: dict[str, Score]
    costs: dict[str, float | None]
    checks: dict[str, bool]
    check_notes: dict[str, str]
    converged: bool | None
    improved: bool | None
    trainable_parameters: int | None
    total_parameters: int | None
    learning_rate: float | None
    steps: int | None
    best_step: int | None
    tuning: Tuning | None
    trials: NotRequired[int]
    trial_steps: NotRequired[int]
    search: NotRequired[dict[str, Any]]
    trial_points: NotRequired[list[dict[str, float]]]
    least_bytes: NotRequired[float]
    trainable_percent: NotRequired[float]
    packed_parameters: NotRequired[int]
    step_products: NotRequired[dict[str, float]]
    trunk_products: NotRequired[dict[str, float]]
    place: NotRequired[int]


class ResultsDocument(TypedDict):
    """results.json, without its checksum and signature. Model, data and metrics are those of plan.json.

    `records` is a hash of everything that the results were made from. `notes` and `not_held_equal` exist only if
    several bakeoffs are compared, `of_entries` only if a view leaves entries out.
    """

    schema: Literal[3]
    name: str
    status: Literal["done", "failed", "incomplete"]
    model: dict[str, Any]
    data: dict[str, Any]
    precision: str
    max_tokens: int
    output_tokens: int
    protocol: dict[str, Any]
    tune: dict[str, Any] | None
    generation: dict[str, Any]
    template: str
    metrics: list[dict[str, Any]]
    primary: str
    score_signature: str
    entries: dict[str, ResultsRow]
    baselines: dict[str, ResultsRow]
    verdict: Verdict
    environment: dict[str, Any]
    records: str
    notes: NotRequired[list[str]]
    not_held_equal: NotRequired[list[str]]
    of_entries: NotRequired[int]

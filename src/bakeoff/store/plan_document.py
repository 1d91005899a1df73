"""plan.json as models: what a bakeoff runs, and what is known about it in advance. Other keys are kept."""

from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from bakeoff.store.documents import Count, Document, Figure, Name, Number, RunRow, Text, is_number, run_fault, words
from bakeoff.store.records import Quantize, Run

Parameters = Annotated[int, Field(ge=1, le=2**62)]


class Products(Document):
    """Multiplications of a step: per prompt token, per target token, and per example."""

    prompt: Figure
    target: Figure
    example: Figure

    def per_example(self, prompt_tokens: float, target_tokens: float) -> float:
        """Return those of an example with so many tokens."""
        return prompt_tokens * self.prompt + target_tokens * self.target + self.example

    def any(self) -> bool:
        """Return whether any of the three is not 0."""
        return any((self.prompt, self.target, self.example))


class BaseFacts(Document):
    """The base model. `weights` are checksums; `files` has the size and time of each of its files."""

    name: Text
    revision: Text | None
    identity: Text | None
    weights: dict[Text, Text] = Field({})
    files: dict[Text, list[int]] = Field({})
    context: Count | None
    total_parameters: Parameters
    architecture: Text | None = None
    forward_products: Products


class Lengths(Document):
    """A histogram of lengths in tokens. The last bin also counts the longest 1 %."""

    median: Figure
    p99: Count
    longest: Count
    edges: list[Figure]
    counts: list[Count]


class SplitFacts(Document):
    """One split. Its lengths are null if the plan was made without the base's tokenizer."""

    examples: Parameters
    cut_documents: Figure | None = None
    cut_tokens: Figure | None = None
    prompt_tokens_mean: Figure = 0.0
    target_tokens_mean: Figure = 0.0
    document_lengths: Lengths | None = None
    target_lengths: Lengths | None = None


class Splits(Document):
    """The three splits."""

    train: SplitFacts
    validation: SplitFacts
    test: SplitFacts

    def named(self) -> list[tuple[str, SplitFacts]]:
        """Return the splits with their names."""
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]

    def of(self, split: str) -> SplitFacts:
        """Return a split by its name."""
        return dict(self.named())[split]


class DataFacts(Document):
    """The data, and the findings about it."""

    source: Text
    identity: Text
    splits: Splits
    findings: list[Text]


class MetricFacts(Document):
    """One score: its name, and how it is shown."""

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    heading: Text
    explanation: Text = ""
    bounded: bool
    corpus: bool = False


class ChatFacts(Document):
    """How the base's chat template is used.

    `rendered` is a hash of what it writes around turns, `ends` are the ids that end an output.
    """

    rendered: Text
    ends: Annotated[list[Count], Field(min_length=1)]


class TokenCounts(Document):
    """Tokens of one run: in an epoch, in the longest batch, in validation and test, and the most that outputs have."""

    train_tokens: Count
    longest_batch_tokens: Count
    validation_tokens: Count
    test_tokens: Count
    output_tokens: Count


class Span(Document):
    """The range of a searched field."""

    low: Figure
    high: Figure
    scale: Literal["log", "linear"]

    def holds(self, value: Any) -> bool:
        """Return whether a trial can have this value; one past the edge is outside of the range."""
        return is_number(value)


class Choices(Document):
    """The values of a searched field that is no number."""

    values: list[Text]

    def holds(self, value: Any) -> bool:
        """Return whether a trial can have this value."""
        return value in self.values


class EntryFacts(Document):
    """One entry. `learning_rate` is null if it is searched; `trial_points` has the settings of its trials, as
    far as they are known before anything runs.

    `packed_parameters` is the number of its base's weights that are stored in fewer bits.
    """

    method: Text
    steps: Count
    tuning: Text
    trials: Count
    trial_steps: Count
    search: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")], Span | Choices]
    trial_points: list[dict[Text, Figure | Text]]
    learning_rate: Figure | None
    least_bytes: Figure
    trainable_parameters: Count
    total_parameters: Parameters
    trainable_percent: Figure
    quantize: Quantize = "none"
    packed_parameters: Count = 0
    step_products: Products
    trunk_products: Products


class EntryForecast(Document):
    """What a probe measured for an entry: the time of all its runs together, and their peak memory."""

    error: str | None
    seconds: Number | None
    peak_bytes: Figure | None


class PlanForecast(Document):
    """What a probe measured for a plan. `seconds` is the sum over all entries; `too_large` names what will not fit.

    With seeds in rounds `first_round_seconds` is the sum for the runs before the first look.
    """

    entries: dict[Name, EntryForecast]
    seconds: Number | None
    too_large: list[Name]
    first_round_seconds: Number | None = None


def run_of(row: Any) -> Run:
    """Return the run in a row of a document; raise ValueError if the row is not a run."""
    if isinstance(row, Run):
        return row
    if wrong := run_fault(row):
        raise ValueError(wrong)
    return Run(**{field.name: row[field.name] for field in fields(Run) if field.name in row})


class PlanDocument(Document):
    """plan.json. `decoding` is a hash of the generation settings, `scoring` of the metrics and their code.

    `basis` is a hash of what the plan was made from besides data and metrics, and of its content besides scores.

    `chat` is null if prompts are plain text. `looks` are the numbers of seeds at which results are looked at; empty if
    all planned runs are carried out.

    `config` is the resolved config that it was made from, without the folder of the results. `output_tokens` and
    `counts` are null if a plan was made without the base's tokenizer; such a plan is never written to a file. Only a
    plan made with --probe has a `forecast`.
    """

    schema_version: Literal[3] = Field(alias="schema")
    name: Name
    version: Text
    model: BaseFacts
    data: DataFacts
    config: dict[Text, Any]
    data_fingerprint: Text | None = None
    basis: Text | None = None
    decoding: Text | None = None
    scoring: Text | None = None
    precision: Literal["fp32", "bf16", "fp16"]
    decoding_precision: Literal["fp32", "bf16", "fp16"] | None = None
    template: Text
    chat: ChatFacts | None = None
    metrics: Annotated[list[MetricFacts], Field(min_length=1)]
    primary: Text
    score_signature: Text
    max_tokens: Parameters
    output_tokens: Parameters | None
    texts: list[Text] = Field([])
    rungs: list[Count]
    looks: list[Annotated[int, Field(ge=2, le=1000)]] = Field([])
    epochs: Annotated[int, Field(ge=1, le=2**31)]
    memory_bytes: Annotated[Figure, Field(ge=1)]
    at_once: Annotated[int, Field(ge=1)] = Field(1)
    counts: TokenCounts | None
    entries: Annotated[dict[Name, EntryFacts], Field(min_length=1)]
    not_run: dict[Text, Text]
    runs: list[Annotated[Run, BeforeValidator(run_of, json_schema_input_type=RunRow)]]
    forecast: PlanForecast | None = None

    @property
    def ranked_by(self) -> MetricFacts:
        """The score that entries are ranked by."""
        return next(metric for metric in self.metrics if metric.name == self.primary)

    @model_validator(mode="after")
    def check_metrics(self) -> Self:
        """Raise ValueError if the primary score is not among the metrics, or a metric occurs twice."""
        names = [metric.name for metric in self.metrics]
        if self.primary not in names or len(set(names)) < len(names):
            raise ValueError("primary: not among the metrics, or a metric occurs twice")
        return self

    @model_validator(mode="after")
    def check_runs(self) -> Self:
        """Raise ValueError if runs do not belong to the entries, or settings of trials differ from what is searched."""
        if len({run.id for run in self.runs}) < len(self.runs):
            raise ValueError("runs: an id occurs twice")
        kinds = {run.entry: run.kind == "baseline" for run in self.runs}
        for i, run in enumerate(self.runs):
            baseline = run.kind == "baseline"
            if baseline != kinds[run.entry] or baseline == (run.entry in self.entries):
                raise ValueError(f"runs.{i}.entry: does not match the entries")
            searched = self.entries[run.entry].search if run.kind == "trial" else {}
            if not all(span.holds(run.settings.get(name)) for name, span in searched.items()):
                raise ValueError(f"runs.{i}.settings: a searched value is missing or not one that is searched")
        points = [(row.search, point) for row in self.entries.values() for point in row.trial_points]
        if not all(spans.keys() == p.keys() and all(spans[k].holds(v) for k, v in p.items()) for spans, p in points):
            raise ValueError("entries: trials of other fields than are searched")
        return self


def stored_plan(row: dict[str, Any]) -> PlanDocument:
    """Return the plan in a run folder's plan.json; raise ValueError, in words, if it is not a plan."""
    try:
        plan = PlanDocument.model_validate(row)
    except ValidationError as error:
        raise ValueError(words(error)) from None
    if plan.output_tokens is None:
        raise ValueError("output_tokens: is missing")
    return plan

"""plan.json as models: what a bakeoff runs, and what is known of it before. Other keys are kept."""

from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bakeoff.store.documents import Count, Figure, Name, Number, RunRow, Text, is_number, run_fault, words
from bakeoff.store.records import Run

Parameters = Annotated[int, Field(ge=1, le=2**62)]


class Document(BaseModel):
    """What all parts of a plan have in common."""

    model_config = ConfigDict(
        strict=True, extra="allow", frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    def row(self) -> dict[str, Any]:
        """Return the document as its file has it."""
        return self.model_dump(exclude_unset=True)


class Products(Document):
    """Multiplications of a step: per token of a prompt, per token of a target, and per example."""

    prompt: Figure
    target: Figure
    example: Figure

    def per_example(self, prompt_tokens: float, target_tokens: float) -> float:
        """Return those of an example with so many tokens."""
        return prompt_tokens * self.prompt + target_tokens * self.target + self.example

    def any(self) -> bool:
        """Return whether there are any."""
        return any((self.prompt, self.target, self.example))


class BaseFacts(Document):
    """The base model. `weights` are checksums, `files` size and time of each of its files."""

    name: Text
    revision: Text | None
    identity: Text | None
    weights: dict[Text, Text] = {}
    files: dict[Text, list[int]] = {}
    context: Count | None
    total_parameters: Parameters
    architecture: Text | None = None
    forward_products: Products


class Lengths(Document):
    """A histogram of lengths in tokens. The last count is of the longest 1 % too."""

    median: Figure
    p99: Count
    longest: Count
    edges: list[Figure]
    counts: list[Count]


class SplitFacts(Document):
    """One split. Lengths are known once the base's tokenizer is on this machine."""

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
    """The data, with what is odd about it."""

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


class TokenCounts(Document):
    """Tokens of one run: of an epoch, of the longest batch, and of what is read and written at the end."""

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


class EntryFacts(Document):
    """One entry. `learning_rate` is null where it is searched; `trial_points` are the settings of its trials."""

    method: Text
    steps: Count
    tuning: Text
    trials: Count
    trial_steps: Count
    search: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")], Span]
    trial_points: list[dict[Text, Figure]]
    learning_rate: Figure | None
    least_bytes: Figure
    trainable_parameters: Count
    total_parameters: Parameters
    trainable_percent: Figure
    step_products: Products
    trunk_products: Products


class EntryForecast(Document):
    """What a probe says of an entry: how long its runs take together, and their peak of memory."""

    error: str | None
    seconds: Number | None
    peak_bytes: Figure | None


class PlanForecast(Document):
    """What a probe says of a plan. `seconds` are of all entries together."""

    entries: dict[Name, EntryForecast]
    seconds: Number | None
    too_large: list[Name]


def run_of(row: Any) -> Run:
    """Return a run that a document holds; raise ValueError where it holds none."""
    if isinstance(row, Run):
        return row
    if wrong := run_fault(row):
        raise ValueError(wrong)
    return Run(**{field.name: row[field.name] for field in fields(Run)})


class PlanDocument(Document):
    """plan.json. `decoding` and `scoring` are hashes of what outputs and scores depend on beside the training.

    `output_tokens` and `counts` are null in a plan that was made without the base's tokenizer, which no file holds;
    `forecast` is there in one that was probed.
    """

    schema_version: Literal[3] = Field(alias="schema")
    name: Name
    version: Text
    model: BaseFacts
    data: DataFacts
    data_fingerprint: Text | None = None
    decoding: Text | None = None
    scoring: Text | None = None
    precision: Literal["fp32", "bf16"]
    template: Text
    metrics: Annotated[list[MetricFacts], Field(min_length=1)]
    primary: Text
    score_signature: Text
    max_tokens: Parameters
    output_tokens: Parameters | None
    texts: list[Text] = []
    rungs: list[Count]
    epochs: Annotated[int, Field(ge=1, le=2**31)]
    memory_bytes: Annotated[Figure, Field(ge=1)]
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
        """Raise ValueError where the primary score is none of the metrics, or a metric is there twice."""
        names = [metric.name for metric in self.metrics]
        if self.primary not in names or len(set(names)) < len(names):
            raise ValueError("primary: none of the metrics")
        return self

    @model_validator(mode="after")
    def check_runs(self) -> Self:
        """Raise ValueError where runs are not of the entries, or have other settings than are searched."""
        if len({run.id for run in self.runs}) < len(self.runs):
            raise ValueError("runs: one stands there twice")
        kinds = {run.entry: run.kind == "baseline" for run in self.runs}
        for i, run in enumerate(self.runs):
            baseline = run.kind == "baseline"
            if baseline != kinds[run.entry] or baseline == (run.entry in self.entries):
                raise ValueError(f"runs.{i}.entry: not as planned")
            searched = self.entries[run.entry].search if run.kind == "trial" else ()
            if not all(is_number(run.settings.get(name)) for name in searched):
                raise ValueError(f"runs.{i}.settings: not as searched")
        points = [(row.search.keys(), point.keys()) for row in self.entries.values() for point in row.trial_points]
        if any(searched != values for searched, values in points):
            raise ValueError("entries: trials of other fields than are searched")
        return self


def stored_plan(row: dict[str, Any]) -> PlanDocument:
    """Return the plan that a run folder's plan.json holds; raise ValueError, in words, where it holds none."""
    try:
        plan = PlanDocument.model_validate(row)
    except ValidationError as error:
        raise ValueError(words(error)) from None
    if plan.output_tokens is None:
        raise ValueError("output_tokens: not known")
    return plan

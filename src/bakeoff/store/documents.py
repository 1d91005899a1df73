"""The shapes of the documents in a run folder: a document of another shape counts as damaged.

Whatever later code divides by, counts with, looks up or formats is checked here: its range, and whether it agrees with
the rest of the document. Other keys are kept.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from typing_extensions import TypedDict

from bakeoff.errors import printable_within
from bakeoff.store.records import Quantize

Count = Annotated[int, Field(ge=0, le=2**62)]
Number = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**62), le=2**62)]
Figure = Whole | Number  # a whole number stays one
LARGEST_SCORE = 1e30  # of one example; degrees of freedom are made of fourth powers
Score = Annotated[float, Field(ge=-LARGEST_SCORE, le=LARGEST_SCORE, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
Text = Annotated[str, Field(max_length=100_000)]
Measured = Whole | float | None  # a loss may be NaN


class Document(BaseModel):
    """Base of all documents and of their parts. Keys that a class does not name are kept."""

    model_config = ConfigDict(
        strict=True, extra="allow", frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    def row(self) -> dict[str, Any]:
        """Return the document as its file holds it."""
        return self.model_dump(exclude_unset=True)

    def printable(self) -> Self:
        """Return the document with every text in it made printable; line breaks and tabs stay."""
        known = self.__dict__ | (self.model_extra or {})
        return self.model_copy(update={name: shown(known[name]) for name in self.model_fields_set})


def shown(value: Any) -> Any:
    """Return a value of a document with every text in it made printable."""
    if isinstance(value, Document):
        return value.printable()
    if isinstance(value, dict):
        return {printable_within(key): shown(inner) for key, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list) else printable_within(value)


class RunRow(TypedDict):
    """A run in plan.json, run.json and result.json."""

    id: Name
    entry: Name
    kind: Literal["baseline", "trial", "entry"]
    method: Text
    settings: dict[Text, Any]
    seed: int
    steps: Count | None
    trial: Count | None
    search: Text | None
    until: Count | None
    adopts: Name | None
    quantize: NotRequired[Quantize]


class ResultRow(TypedDict):
    """result.json: what became of a run."""

    run: RunRow
    status: Literal["done", "failed", "paused"]
    error: Text | None
    cause: Literal["diverged", "memory", "ended", "stalled", "error"] | None
    trainable_parameters: Count | None
    total_parameters: Annotated[int, Field(ge=1, le=2**62)] | None
    learning_rate: Number | None
    steps: Count | None
    best_step: Count | None
    metrics: dict[Text, Number]
    costs: dict[Text, Annotated[Number, Field(ge=0)] | None]
    checks: dict[Text, bool]
    check_notes: dict[Text, Text]
    files: dict[Text, Text]
    decoding: NotRequired[Text | None]
    scoring: NotRequired[Text | None]
    beside: NotRequired[Count]
    shards: NotRequired[Count]
    machines: NotRequired[Count]
    instruction: NotRequired[Text | None]


class CurveRow(Document):
    """A validation during training: a row of metrics.jsonl. Other keys are numbers, too."""

    __pydantic_extra__: dict[str, Measured] = Field(init=False)

    step: Annotated[Whole | float, Field(ge=0, le=2**53)]
    epoch: Figure
    seconds: Figure
    train_loss: Measured = Field(None, alias="train/loss")
    validation_loss: Measured = Field(None, alias="validation/loss")


# A typed dictionary, because each row of predictions has four: as models they double the time of reading.
class PartedScore(TypedDict):
    """A score with precision `p`, recall `r` and F score `f`; entries are compared by `f`."""

    p: NotRequired[Score]
    r: NotRequired[Score]
    f: Score


class PredictionRow(Document):
    """A row of predictions.jsonl. `loss` is the sum over the `tokens` of the target; scores are other keys."""

    __pydantic_extra__: dict[str, Score | PartedScore] = Field(init=False)

    id: str
    output: str
    loss: Number | None = None
    tokens: Count | None = None

    @model_validator(mode="after")
    def check_loss(self) -> Self:
        """Raise ValueError if one of loss and tokens is missing or null, but not the other."""
        if (self.loss is None or self.tokens is None) and {"loss", "tokens"} & self.model_fields_set:
            raise ValueError("loss or tokens without the other")
        return self

    def score(self, name: str) -> float:
        """Return the number by which the score of this name is compared: its F if it has one."""
        score = self.__pydantic_extra__[name]
        return score["f"] if isinstance(score, dict) else score


class ExampleRow(Document):
    """A row of a split's examples. `references` are all its summaries if there are several, `around` the prompt's texts
    before and after the document if they are not the same for all examples, `columns` those that metrics need, `turns`
    a conversation's turns before its last answer, as role and text. It has no other keys.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    document: str
    summary: str
    group: str
    references: list[str] = Field([])
    around: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    columns: dict[str, Any] | None = None
    turns: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field([])


class MadeRow(TypedDict):
    """data/made.json: what the examples were made from, and the checksum of each file."""

    data_fingerprint: Text
    files: dict[Text, Text]


class EnvironmentRow(TypedDict):
    """environment.json: the machine and its software."""

    date: NotRequired[Text]
    changes: NotRequired[Text]
    processor: NotRequired[Text | None]
    gpu: NotRequired[Text | None]


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return pydantic's validator of a kind of document."""
    return TypeAdapter(kind)


def fault(kind: Any, document: Any) -> str | None:
    """Return in words what is wrong with a document's shape, or None if it is right."""
    try:
        adapter(kind).validate_python(document, strict=True)
    except ValidationError as error:
        return words(error)
    return None


def words(error: ValidationError) -> str:
    """Return the first error in words."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, message = ".".join(map(str, first["loc"]))[:100], first["msg"].removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:100]}" if place else message


def whole(kind: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Return a document, or an empty one if its shape is wrong."""
    return {} if fault(kind, document) else document


def run_fault(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a run; a trial must have its number and a search."""
    wrong = fault(RunRow, row)
    if wrong is None and row["kind"] == "trial" and (row["trial"] is None or row["search"] is None):
        return f"{row['id']}: a trial without a number"
    return wrong


def result_fault(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a result; failed checks must have notes, and a finished training a validation loss."""
    wrong = fault(ResultRow, row) or run_fault(row["run"])
    if wrong is None and not all(passed or name in row["check_notes"] for name, passed in row["checks"].items()):
        return "check_notes: the note of a failed check is missing"
    trained = wrong is None and row["run"]["kind"] != "baseline" and row["status"] != "failed"
    return "metrics: validation/loss is missing" if trained and "validation/loss" not in row["metrics"] else wrong


def is_number(value: Any) -> bool:
    """Return whether a setting is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300

"""What happens in a bakeoff: a tagged union of events, each a line of events.jsonl, told apart by `kind`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from bakeoff.store.documents import Count, Figure, Name, Whole

Measured = Whole | float | None  # a loss may be no number
Positive = Annotated[Figure, Field(gt=0)]


class Line(BaseModel):
    """What every event has. Keys that a kind does not name are kept."""

    model_config = ConfigDict(
        strict=True, extra="allow", frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    time: Annotated[float, Field(ge=0, lt=2**40, allow_inf_nan=False)] | None = Field(
        None, description="Seconds since 1970. Every line of the file has one; it is set when the event is written."
    )

    def values(self) -> dict[str, Any]:
        """Return what the event says, by the names that the file has."""
        return self.model_dump(exclude_unset=True, exclude={"time", "run", "kind"})

    def row(self) -> dict[str, Any]:
        """Return the event as a line of the file holds it."""
        head = {name: getattr(self, name, None) for name in ("time", "run", "kind")}
        return {k: v for k, v in head.items() if v is not None} | self.values()


class Start(Line):
    """A session begins. `done` are the runs that need not run, `steps` how many each trial has taken before.

    `again` are the runs that are trained, whose outputs are made (decode) or scored (score) again. `plan` is a hash by
    which the session knows its plan.
    """

    kind: Literal["start"] = "start"
    done: list[str]
    steps: dict[str, Count]
    again: dict[str, Literal["decode", "score"]] = {}
    plan: str | None = None


class End(Line):
    """A session ends. One that was killed has no such line."""

    kind: Literal["end"] = "end"


class Note(Line):
    """A line of news."""

    kind: Literal["note"] = "note"
    text: str


class State(Line):
    """What a run is doing; while it scores also by which `metric`."""

    run: Name
    kind: Literal["state"] = "state"
    state: str
    metric: str | None = None


class Progress(Line):
    """How far a run has come: in steps of training, or in examples. With neither it is a sign of life."""

    __pydantic_extra__: dict[str, Measured] = Field(init=False)

    run: Name
    kind: Literal["progress"] = "progress"
    step: Figure | None = None
    steps: Positive | None = None
    tokens_per_second: Figure | None = None
    seconds_left: Figure | None = None
    train_loss: Measured = Field(None, alias="train/loss")
    peak_bytes: Measured = None
    examples: Figure | None = None
    examples_total: Positive | None = None
    read_tokens: Positive | None = None
    read_seconds: Figure | None = None

    @model_validator(mode="after")
    def check_together(self) -> Self:
        """Raise ValueError where a part of what is read together is missing."""
        if self.step is not None and None in (self.steps, self.tokens_per_second, self.seconds_left):
            raise ValueError("a step without steps, tokens_per_second and seconds_left")
        if self.examples is not None and self.examples_total is None:
            raise ValueError("examples without examples_total")
        if (self.read_tokens is None) != (self.read_seconds is None):
            raise ValueError("one of read_tokens and read_seconds alone")
        return self


class Metrics(Line):
    """A validation in training, as the run's metrics.jsonl has it."""

    __pydantic_extra__: dict[str, Measured] = Field(init=False)

    run: Name
    kind: Literal["metrics"] = "metrics"
    step: Annotated[Whole | float, Field(ge=0, le=2**53)]
    epoch: Figure
    seconds: Figure
    train_loss: Measured = Field(None, alias="train/loss")
    validation_loss: Measured = Field(None, alias="validation/loss")


class Ranked(BaseModel):
    """The score that entries are ranked by."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str = "rougeL"
    heading: str = "ROUGE-L"


class Done(Line):
    """A run has ended well. Metrics and costs are those of its result.json."""

    run: Name
    kind: Literal["done"] = "done"
    metrics: dict[str, Measured]
    costs: dict[str, Measured]
    check_notes: dict[str, str]
    ranked: Ranked = Ranked()


class Failed(Line):
    """A run has failed."""

    run: Name
    kind: Literal["failed"] = "failed"
    error: str | None


RunEvent = State | Progress | Metrics | Done | Failed
Event = Start | End | Note | RunEvent
EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def event_of(row: object) -> Event:
    """Return the event that a line holds; raise ValueError where it holds none."""
    return EVENTS.validate_python(row)

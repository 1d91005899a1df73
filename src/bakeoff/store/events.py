"""What happens in a bakeoff: a tagged union of events. Each is a line of events.jsonl; `kind` is its tag."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from bakeoff.store.documents import Count, CurveRow, Document, Figure, Measured, Name

NOT_NEEDED = "not needed"  # the state of a planned run of a later round that a look has made unnecessary
Positive = Annotated[Figure, Field(gt=0)]


class Line(Document):
    """What every event has. Keys that its kind does not name are kept."""

    time: Annotated[float, Field(ge=0, lt=2**40, allow_inf_nan=False)] | None = Field(
        None, description="Seconds since 1970. Every line of the file has one; it is set when the event is written."
    )

    def values(self) -> dict[str, Any]:
        """Return the event's own values, under the names that they have in the file."""
        return self.model_dump(exclude_unset=True, exclude={"time", "run", "kind"})

    def row(self) -> dict[str, Any]:
        """Return the event as a row of the file."""
        head = {name: getattr(self, name, None) for name in ("time", "run", "kind")}
        return {k: v for k, v in head.items() if v is not None} | self.values()


class Start(Line):
    """A session begins. `done` are the runs that are finished already, `steps` the steps that trials have taken before.

    `again` are runs that are trained already, but whose outputs are written again (decode) or only scored again
    (score). `plan` is a hash of the session's plan; `workers` is how many runs are carried out at the same time.
    """

    kind: Literal["start"] = "start"
    done: list[str]
    steps: dict[str, Count]
    again: dict[str, Literal["decode", "score"]] = Field({})
    plan: str | None = None
    workers: Annotated[int, Field(ge=1)] = Field(1)


class End(Line):
    """A session ends. A session that was killed has no such line."""

    kind: Literal["end"] = "end"


class Note(Line):
    """A message for the user, in one line."""

    kind: Literal["note"] = "note"
    text: str


class State(Line):
    """What a run is doing from now on. While it scores, `metric` may name the metric."""

    run: Name
    kind: Literal["state"] = "state"
    state: str
    metric: str | None = None


class Progress(Line):
    """How far a run has come, in steps of training or in examples. With neither it only shows that the run is alive."""

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
        """Raise ValueError if one of several values that belong together is missing."""
        if self.step is not None and None in (self.steps, self.tokens_per_second, self.seconds_left):
            raise ValueError("a step without steps, tokens_per_second and seconds_left")
        if self.examples is not None and self.examples_total is None:
            raise ValueError("examples without examples_total")
        if (self.read_tokens is None) != (self.read_seconds is None):
            raise ValueError("read_tokens or read_seconds without the other")
        return self


class Metrics(CurveRow, Line):
    """A validation during training: a row of the run's metrics.jsonl."""

    run: Name
    kind: Literal["metrics"] = "metrics"


class Ranked(BaseModel):
    """The score that entries are ranked by."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str = "rougeL"
    heading: str = "ROUGE-L"


class Done(Line):
    """A run is done. Metrics and costs are those of its result.json."""

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
Emit = Callable[[Event], None]
EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def event_of(row: object) -> Event:
    """Return the event in a row; raise ValueError if the row is not an event."""
    return EVENTS.validate_python(row)

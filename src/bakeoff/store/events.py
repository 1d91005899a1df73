"""The shapes of the lines of events.jsonl, as `documents` has them of the other documents of a run folder."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from bakeoff.store.documents import Count, CurveRow, Name, Number, fault, is_number

Numbers = dict[str, float | None]  # a loss may be no number


class StepValues(TypedDict):
    """Progress of a training."""

    step: Number
    steps: Annotated[Number, Field(gt=0)]
    tokens_per_second: Number
    seconds_left: Number


class ExampleValues(TypedDict):
    """Progress over examples."""

    examples: Number
    examples_total: Annotated[Number, Field(gt=0)]


class ReadValues(TypedDict):
    """How fast texts are read."""

    read_tokens: Annotated[Number, Field(gt=0)]
    read_seconds: Number


class StateValues(TypedDict):
    """What a run is doing."""

    state: str


class FailedValues(TypedDict):
    """Why a run failed."""

    error: str | None


class NoteValues(TypedDict):
    """A line of news."""

    text: str


class StartValues(TypedDict):
    """What a session begins with."""

    done: list[str]
    steps: dict[str, Count]
    again: NotRequired[dict[str, Literal["decode", "score"]]]


class DoneValues(TypedDict):
    """What a run has measured."""

    metrics: Numbers
    costs: Numbers
    check_notes: dict[str, str]
    ranked: NotRequired[dict[str, str]]


EVENTS: dict[str, Any] = {
    "progress": Numbers, "metrics": Numbers, "state": StateValues, "failed": FailedValues, "note": NoteValues,
    "start": StartValues, "end": dict[str, Any], "done": DoneValues,
}  # fmt: skip
NEEDED = {"step": StepValues, "examples": ExampleValues, "read_tokens": ReadValues, "read_seconds": ReadValues}


def event_fault(row: Any) -> str | None:
    """Return what is wrong with a line of events.jsonl."""
    if not isinstance(row, dict) or not is_number(row.get("time")) or not 0 <= row["time"] < 2**40:
        return "no event"
    kind, values = row.get("kind"), {k: v for k, v in row.items() if k not in ("time", "run", "kind")}
    if not isinstance(kind, str) or kind not in EVENTS:
        return "no known kind of event"
    wrong = fault(EVENTS[kind], values)
    if wrong is None and kind not in ("start", "end", "note"):
        wrong = fault(Name, row.get("run"))
    if wrong is None and kind == "metrics":
        wrong = fault(CurveRow, values)
    if wrong is None and kind == "progress":
        wrong = next((w for key, needed in NEEDED.items() if key in values and (w := fault(needed, values))), None)
    return wrong

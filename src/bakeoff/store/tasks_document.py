"""tasks.json as models: what several tasks, and bases, say together about the entries that all of them have."""

from typing import Annotated, Literal

from pydantic import Field

from bakeoff.store.documents import Document
from bakeoff.store.results_document import Interval

Scope = Literal["these", "tasks", "tasks and bases"]


class TaskPair(Document):
    """The mean difference first - second over all tasks, each counted once; `by_task` has that of each task.

    `low` and `high` are the 95 % interval, `new_low` and `new_high` where the difference on one more task would lie.
    Differences of losses are logarithms of their ratio.
    """

    first: str
    second: str
    difference: float
    low: Interval
    high: Interval
    p: float | None
    p_adjusted: float | None
    different: bool
    by_task: dict[str, float]
    spans: dict[str, tuple[float, float]]
    new_low: Interval = None
    new_high: Interval = None


class TaskMeasure(Document):
    """One measure. `scores` are by entry, task and base, those of a `ratio` logarithms of a loss over the base's.

    `scope` says for what the differences hold: these tasks (and bases) alone, tasks like these, or both.
    """

    name: str
    heading: str
    bounded: bool
    ratio: bool
    scope: Scope
    scores: dict[str, dict[str, dict[str, float]]]
    best: str
    tied_with_best: list[str]
    pairs: list[TaskPair]
    text: str = ""


class TaskCell(Document):
    """The bakeoff of one task on one base: its name, its folder, and the first sentence of its verdict.

    `records` is a hash of what was known of its runs.
    """

    task: str
    base: str
    name: str
    folder: str
    documents: int
    headline: str
    records: str = ""


class TasksDocument(Document):
    """tasks.json. `costs` are means over all cells, by entry; money is there if all cells have a price."""

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    tasks: Annotated[list[str], Field(min_length=1)]
    bases: Annotated[list[str], Field(min_length=1)]
    entries: Annotated[list[str], Field(min_length=1)]
    cells: list[TaskCell]
    measures: Annotated[list[TaskMeasure], Field(min_length=1)]
    costs: dict[str, dict[str, float | None]]
    currency: str = ""
    text: str
    notes: list[str]

"""What a metric is: its columns, how outputs are scored, and which parts of a text it ignores."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Score = float | dict[str, float]  # a number, or precision, recall and F as p, r and f
Rows = Sequence[Mapping[str, Score]]
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Measure:
    """A column of scores: its name in the records, its heading, and an explanation; `bounded` means from 0 to 1.

    A `corpus` score is not a mean over outputs: it has no interval, and entries are not ranked by it.
    """

    name: str
    heading: str
    explanation: str
    bounded: bool = True
    corpus: bool = False


@dataclass(frozen=True)
class Metric:
    """What one name in the config's `metrics` means. Entries are ranked by `primary`, one of `measures`.

    `rule` changes whenever the same outputs get other scores: it is part of the plan's scoring hash. `unseen` is the
    share of a reference that the metric ignores, `blind` says what that is and what to try instead. If it `sees_rows`,
    its `score` also takes the columns of each output's example.
    """

    measures: tuple[Measure, ...]
    primary: str
    score: Callable[..., Rows]
    corpus: Callable[[Sequence[str], References], dict[str, float]] = lambda outputs, references: {}
    signature: Callable[[bool], str] = lambda several: ""
    rule: str = ""
    unseen: Callable[[str], float] = lambda text: 0.0
    blind: str = ""
    sees_rows: bool = False


def overlap(output: "Counter[Any]", reference: "Counter[Any]") -> dict[str, float]:
    """Return precision, recall and F of an output's parts; 1 if there are none on both sides."""
    if not output or not reference:
        same = float(output == reference)
        return {"p": same, "r": same, "f": same}
    common = (output & reference).total()
    p, r = common / output.total(), common / reference.total()
    return {"p": p, "r": r, "f": 2 * p * r / (p + r) if common else 0.0}

"""Outputs that are JSON: whether they can be read, and how many fields they have in common with the reference."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bakeoff.scoring.metric import Measure, Metric, References, Rows, Score, overlap

Field = tuple[tuple[str, ...], str]
ITEM = "[]"  # stands in a path for an item of a list, whose place does not count


def parsed(text: str) -> Any:
    """Return the value that a whole text is; raise ValueError if it is not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def fields_of(text: str) -> "Counter[Field] | None":
    """Return the fields of a JSON text: every value that is no object or list, with the keys that lead to it.

    An empty object or list is a field. Numbers are equal if their values are. None if the text is not JSON.
    """
    try:
        left: list[tuple[tuple[str, ...], Any]] = [((), parsed(text))]
    except ValueError:
        return None
    found: Counter[Field] = Counter()
    while left:
        path, value = left.pop()
        if isinstance(value, dict) and value:
            left += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list) and value:
            left += [((*path, ITEM), inner) for inner in value]
        else:
            found[path, written(value)] += 1
    return found


def written(value: Any) -> str:
    """Return a value as fields are compared: 1 equals 1.0, and true, 1 and "1" differ."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def score(outputs: Sequence[str], references: References) -> Rows:
    """Return whether each output is JSON, and precision, recall and F of its fields against the nearest reference."""
    rows: list[dict[str, Score]] = []
    for output, texts in zip(outputs, references, strict=True):
        own = fields_of(output)
        wanted = [fields_of(text) for text in texts]
        nothing = {"p": 0.0, "r": 0.0, "f": 0.0}
        each = [nothing if own is None or fields is None else overlap(own, fields) for fields in wanted]
        rows.append({"json_valid": float(own is not None), "json_f1": max(each, key=lambda s: s["f"])})
    return rows


JSON = Metric(
    (
        Measure("json_valid", "valid JSON", "share of outputs that are JSON as a whole"),
        Measure("json_f1", "JSON F1", "F measure of fields: a value with the keys that lead to it"),
    ),
    "json_f1",
    score,
    signature=lambda several: "JSON: whole output | fields: values with their keys, list items in any order | the best "
    "reference",
    unseen=lambda text: float(fields_of(text) is None),
    blind="it is not JSON. Try exact_match or token_f1",
)  # fmt: skip

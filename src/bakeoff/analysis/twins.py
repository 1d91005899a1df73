"""Entries that differ only in how their base is stored, and what the fewer bits save."""

import json
from collections.abc import Mapping

from bakeoff.analysis.columns import size
from bakeoff.store.results_document import ResultsRow

BITS = {"none": 32, "int8": 8, "nf4": 4}  # by which twins are in order; none is 16 or 32
SAME = {"qlora": "lora"}  # methods of another name for how their base is stored


def twins(rows: Mapping[str, ResultsRow]) -> list[tuple[str, str]]:
    """Return the pairs (entry in fewer bits, its twin in the most bits) among rows; searched settings may differ."""
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row.kind == "entry":
            groups.setdefault(without_storage(row), []).append(name)
    pairs = []
    for names in groups.values():
        most = max(names, key=lambda n: BITS[storage(rows[n])])
        pairs += [(n, most) for n in names if storage(rows[n]) != storage(rows[most])]
    return pairs


def storage(row: ResultsRow) -> str:
    """Return how a row's base is stored."""
    return row.quantize or "none"


def without_storage(row: ResultsRow) -> str:
    """Return what determines an entry beside how its base is stored, as a text."""
    search = {name: span.row() for name, span in row.search.items()}
    fixed = {key: value for key, value in row.settings.items() if key not in search}
    return json.dumps([SAME.get(row.method, row.method), fixed, search], sort_keys=True)


def memory_saved(packed: ResultsRow, plain: ResultsRow) -> str:
    """Return in words how much less memory training took at its peak; nothing if that was not measured."""
    less, more = (row.costs.get("peak_bytes") for row in (packed, plain))
    if not less or not more:
        return ""
    share = 1 - less / more
    change = f"saves {share:.0%} of" if share >= 0 else f"adds {-share:.0%} to"
    return f" and {change} the peak memory of training ({size(less)}, not {size(more)})"

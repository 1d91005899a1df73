"""Predictions that are read by column are those that are read as rows, and the same files are refused."""

import json

import pytest

from bakeoff.errors import SetupError
from bakeoff.store.predictions import plain_columns, read_columns
from bakeoff.store.run_folder import RunFolder

ROW = {"id": "a", "output": "b", "loss": 2.5, "tokens": 3, "rougeL": 0.5, "chrf": {"p": 0.1, "r": 1, "f": 0.3}}
ODD = [
    None, True, "0.5", "", [], {}, {"p": 0.1}, {"f": "x"}, {"f": {"f": 1}}, {"f": 0.5, "other": 2}, {"f": True},
    -1, 0, 1, 2**62, 2**63, -0.5, 1e30, 1.1e30, 1e300, 1e301,
]  # fmt: skip


def by_rows(file):
    """Return what `predictions` says of a file by column, or None if it refuses it."""
    try:
        rows = [row.row() for row in RunFolder(file.parent).predictions()]
    except SetupError:
        return None
    alike = all(row.keys() == rows[0].keys() for row in rows)
    return {name: [row[name] for row in rows] for name in rows[0]} if rows and alike else {}


def by_columns(file):
    """Return what `read_columns` says of a file, or None if it refuses it."""
    try:
        return read_columns(file)
    except SetupError:
        return None


@pytest.mark.parametrize("name", [*ROW, "further"])
@pytest.mark.parametrize("first", [False, True])
def test_a_file_with_one_odd_value_is_the_same_by_columns_and_by_rows(tmp_path, name, first):
    file = tmp_path / "predictions.jsonl"
    for value in ODD:
        rows = [ROW, {**ROW, name: value}, ROW] if not first else [{**row, name: value} for row in (ROW, ROW)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert by_columns(file) == by_rows(file), value
    file.write_text("".join(json.dumps(row) + "\n" for row in (ROW, {k: v for k, v in ROW.items() if k != name})))
    assert by_columns(file) == by_rows(file)


@pytest.mark.parametrize(
    "text", ["", "[]\n", "{}\n", "{\n", '{"id": "a", "output": "b", "m": NaN}\n', '{"id": "\\ud800"}\n']
)
def test_a_file_that_is_no_table_is_the_same_by_columns_and_by_rows(tmp_path, text):
    file = tmp_path / "predictions.jsonl"
    file.write_text(text)
    assert by_columns(file) == by_rows(file)


def test_what_runs_write_is_read_without_a_model_of_each_row():
    assert plain_columns([ROW, ROW]) == {name: [value, value] for name, value in ROW.items()}

"""Data files of every format give the same rows, and what cannot be read is named with its line."""

import csv
import json

import pyarrow
import pytest
from pyarrow import ipc, parquet

from bakeoff.data import json_documents
from bakeoff.data.formats import first_rows, read_rows

ROWS = [{"text": 'x,\n"\u00e9"; [1', "label": str(i)} for i in range(1500)]


def write(path, rows):
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.name == "list.json":
        path.write_text(json.dumps(rows))
    elif path.name == "indented.json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    elif path.suffix in (".jsonl", ".json"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        table = pyarrow.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            parquet.write_table(table, path)
        else:
            opener = ipc.new_file if path.suffix == ".feather" else ipc.new_stream
            with opener(str(path), table.schema) as sink:
                sink.write_table(table)
    return path


NAMES = ["a.jsonl", "a.json", "list.json", "indented.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.feather"]
THIRD = {
    "a.jsonl": ":3", "a.json": ":3", "list.json": ":1 (item 3)", "indented.json": ":10", "a.csv": ":6", "a.tsv": ":6",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(tmp_path, monkeypatch, name):
    monkeypatch.setattr(json_documents, "BLOCK", 700)
    path = write(tmp_path / name, ROWS)
    rows = list(read_rows([path]))
    assert [row.values for row in rows] == ROWS
    assert str(rows[2]) == f"{path}{THIRD.get(name, ': row 3')}"
    assert first_rows([path], 2) == (["text", "label"], ROWS[:2])


def test_a_folder_is_its_files_by_name(tmp_path):
    for i, name in enumerate(("b.csv", "a.parquet", "c.jsonl")):
        write(tmp_path / name, ROWS[i : i + 1])
    (tmp_path / "README.md").write_text("no data")
    assert [row.values["label"] for row in read_rows([tmp_path])] == ["1", "0", "2"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_says_itself_what_parts_its_columns(tmp_path, delimiter):
    (tmp_path / "a.csv").write_text(f"\ufeffone{delimiter}two\n1,5{delimiter}2\n\n", encoding="utf-8")
    assert [row.values for row in read_rows([tmp_path / "a.csv"])] == [{"one": "1,5", "two": "2"}]

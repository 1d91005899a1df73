"""Parquet and Arrow files: columns that nobody named are never read, and a small file may hold much."""

import datetime
import os
import resource
import signal
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import ipc, parquet

from bakeoff.config.data import DataConfig
from bakeoff.data import stored
from bakeoff.data.formats import first_rows, read_rows
from bakeoff.data.sources import load_examples
from bakeoff.data.streams import Reading
from bakeoff.errors import DataError, SetupError
from tests.conftest import make_rows, write_rows

ROWS = make_rows(40, 1)
ODD = {
    "date": pyarrow.array([2**31 - 1] * 40, pyarrow.date32()),
    "far": pyarrow.array([2**62] * 40, pyarrow.timestamp("us")),
    "year 0": pyarrow.array([-(10**14)] * 40, pyarrow.timestamp("ms")),
    "span": pyarrow.array([2**62] * 40, pyarrow.duration("s")),
    "zone": pyarrow.array([0] * 40, pyarrow.timestamp("us", tz="Mars/Phobos")),
    "bytes": pyarrow.array([b"\xff"] * 40, pyarrow.binary()),
    "inner": pyarrow.array([{"far": 2**62}] * 40, pyarrow.struct([("far", pyarrow.timestamp("us"))])),
    "no text": pyarrow.array([b"\xff\xfe"] * 40, pyarrow.binary()).view(pyarrow.string()),
}  # fmt: skip


def written(path, odd):
    columns = {name: pyarrow.array([row[name] for row in ROWS]) for name in ("document", "summary")}
    table = pyarrow.table({**columns, odd: ODD[odd]})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with ipc.new_file(str(path), table.schema) as sink:
            sink.write_table(table)
    return path


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_that_nobody_named_is_never_read(tmp_path, odd, name):
    path = written(tmp_path / name, odd)
    splits = load_examples(DataConfig(train=str(path)))[0]
    assert sorted(e.document for split in splits.values() for e in split) == sorted(row["document"] for row in ROWS)
    assert {"document", "summary"} <= {*first_rows([path]).columns}  # as init looks at it
    if odd == "bytes":
        return
    with pytest.raises(DataError, match=f"a.{path.suffix[1:]}: column '{odd}' of type .*: cannot be read") as caught:
        load_examples(DataConfig(train=str(path), group=odd))
    assert "\n" not in str(caught.value)


def test_what_there_is_is_named_where_a_column_is_not(tmp_path):
    path = written(tmp_path / "a.parquet", "far")
    with pytest.raises(DataError, match="row 1: no column 'sumary'. Did you mean 'summary'"):
        load_examples(DataConfig(train=str(path), summary="sumary"))
    splits = load_examples(DataConfig(train=str(path)), "{{ title | default('-') }} {{ document }}")[0]
    assert splits["train"][0].around == ("- ", "")


def test_a_named_column_that_stands_twice_is_refused(tmp_path):
    columns = [pyarrow.array(["a", "b"]) for _ in range(3)]
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["document", "summary", "summary"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns are named 'summary'. Rename one of them"):
        load_examples(DataConfig(train=str(tmp_path / "a.parquet")))
    (row, _) = read_rows([tmp_path / "a.parquet"], Reading(columns=frozenset({"document"})))
    assert row.values["document"] == "a"


def test_dates_that_python_has_are_text_in_a_template(tmp_path):
    columns = {name: [row[name] for row in ROWS] for name in ("document", "summary")}
    table = pyarrow.table({**columns, "day": [datetime.date(2026, 1, 2)] * 40})
    parquet.write_table(table, tmp_path / "a.parquet")
    train = load_examples(DataConfig(train=str(tmp_path / "a.parquet")), "{{ day }}: {{ document }}")[0]["train"]
    assert {e.around for e in train} == {("2026-01-02: ", "")}


@pytest.mark.parametrize("name", ["document", "no such column"])
def test_thousands_of_columns_are_not_listed(tmp_path, name):
    columns = {f"feature_{i}": ["x"] * 30 for i in range(12_000)}
    lines = [",".join([*columns, "document"]), *([",".join(["x"] * 12_001)] * 30)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="a.csv:2: no column") as caught:
        load_examples(DataConfig(train=str(tmp_path / "a.csv"), document=name))
    assert len(str(caught.value)) < 2100


def test_a_killed_plan_leaves_no_copy_behind_and_a_small_file_fits_in_memory(tmp_path):
    """A file of some kilobytes with 256 MB of texts."""
    text = "word " * 200_000
    rows = {"document": [f"{i % 8} {text}" for i in range(8)] * 32, "summary": [f"s{i}" for i in range(256)]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    (tmp_path / "temporary").mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        "from bakeoff.data.columns import columns_of; from bakeoff.data.stored import store_files\n"
        "kept = store_files([Path(sys.argv[1])], columns_of('document', 'summary'))[0]\n"
        "assert len(kept) == 256 and kept[255].document.startswith('7 word')\n"
        # Not ru_maxrss: a child begins with its parent's.
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(status.partition('VmHWM:')[2].split()[0]) // 1024, flush=True)\n"
        "import time; time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "a.parquet"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        megabytes = int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert megabytes < 700  # of which imports are some 200


def test_a_full_disk_for_copies_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "a.parquet", "far")

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("TMPDIR", "/some/where")
    monkeypatch.setattr(stored, "TemporaryFile", full)
    with pytest.raises(SetupError, match="a copy of its rows: No space left on device in /some/where. Set TMPDIR to"):
        load_examples(DataConfig(train=str(path)))


def test_a_disk_that_fills_while_rows_are_copied_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "a.parquet", "far")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(stored.json, "dumps", lambda row: "x" * 100_000)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(SetupError, match="a copy of its rows: File too large in .*. Set TMPDIR to a folder"):
            load_examples(DataConfig(train=str(path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_examples_that_were_stored_by_older_code_are_read_rightly(tmp_path):
    """A run folder's own files are JSONL with references and texts around the document only where there are some."""
    rows = [
        {"id": "1", "document": "a", "summary": "b", "group": ""},
        {"id": "x", "document": "c", "summary": "d", "group": "g", "references": ["d", "e"], "around": ["<", ">"]},
    ]
    from bakeoff.data.examples import Example
    from bakeoff.store.run_folder import Folder

    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data/test.jsonl", rows)
    found = [Example.from_row(row.row()) for row in Folder(tmp_path).examples("test")]
    assert found == [Example("1", "a", "b"), Example("x", "c", "d", "g", ("d", "e"), ("<", ">"))]
    assert [example.row() for example in found] == rows

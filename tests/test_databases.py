"""SQLite and DuckDB: tables, views and queries are read, nothing is changed, and whatever else is asked is one line."""

import resource
import signal
import sqlite3
import threading
from contextlib import closing

import duckdb
import pytest

from bakeoff.compute.run.request import forked
from bakeoff.config.data import DataConfig
from bakeoff.data import databases
from bakeoff.data.formats import read_rows
from bakeoff.data.sources import load_examples
from bakeoff.data.streams import Reading
from bakeoff.errors import DataError
from tests.conftest import make_rows
from tests.test_damage import assert_damage_is_rows_or_one_line, in_one_line

SPLITS = ("train", "validation", "test")
CONNECT = {"a.sqlite": sqlite3.connect, "a.duckdb": lambda path: duckdb.connect(str(path))}
both = pytest.mark.parametrize("name", CONNECT)


def made(path, *statements, **tables):
    """Make a database of tables, each a list of rows with the same columns, and of what statements make."""
    connection = CONNECT[path.name](path)
    for table, rows in tables.items():
        columns = ", ".join(f'"{name}" text' for name in rows[0])
        table = '"' + table.replace('"', '""') + '"'
        connection.execute(f"create table {table} ({columns})")
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"insert into {table} values ({marks})", [[*row.values()] for row in rows])
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def rows_of(path, part=None, columns=None):
    return [row.values for row in read_rows([path], Reading(part=part, columns=columns))]


@both
def test_tables_are_splits_by_name_and_a_query_may_be_one(tmp_path, name):
    tables = {split: make_rows(5 + i, i) for i, split in enumerate(SPLITS)}
    path = made(tmp_path / name, **tables)
    before = path.read_bytes()
    splits = load_examples(DataConfig(source=str(path)))[0]
    assert {s: [e.document for e in splits[s]] for s in SPLITS} == {
        s: [row["document"] for row in rows] for s, rows in tables.items()
    }
    query = "SELECT document AS d, upper(summary) AS s FROM test WHERE document <> '' LIMIT 3"
    config = DataConfig(source=str(path), train=query, validation=query, test=query, document="d", summary="s")
    assert [e.summary for e in load_examples(config)[0]["test"]] == [r["summary"].upper() for r in tables["test"][:3]]
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {name}


@both
def test_the_only_table_is_all_examples_and_views_count(tmp_path, name):
    path = made(tmp_path / name, **{'odd "name"': make_rows(60, 1)})
    assert sum(map(len, load_examples(DataConfig(train=str(path)))[0].values())) == 60
    made(path, 'create view shown as select summary as document, document as summary from "odd ""name"""')
    assert len(rows_of(path, "shown")) == 60
    with pytest.raises(DataError, match=r"several tables with rows \(odd .*, shown\). Set data.source to this file"):
        rows_of(path)
    with pytest.raises(DataError, match="no table or view 'show'. Did you mean 'shown'. Or write a query"):
        rows_of(path, "show")


@both
def test_columns_that_are_not_needed_are_not_read(tmp_path, name):
    path = made(tmp_path / name, t=make_rows(2, 1))
    assert [*rows_of(path, columns=frozenset({"document"}))[0].values()][1] is None


@both
@pytest.mark.parametrize(
    ("value", "message"),
    [("NULL", "contains nothing, expected text"), ("CAST('ab' AS BLOB)", "contains bytes"), ("3", "contains a number")],
)
def test_a_value_that_is_no_text_is_named(tmp_path, name, value, message):
    path = made(tmp_path / name, t=make_rows(3, 1))
    query = f"SELECT document, {value} AS summary FROM t"
    with pytest.raises(DataError, match=f"{name} \\(SELECT document, .*row 1: column 'summary' {message}"):
        load_examples(DataConfig(source=str(path), train=query))


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = made(tmp_path / "a.sqlite", "insert into t values ('d', CAST(x'ff41' AS TEXT))", t=make_rows(3, 1))
    with pytest.raises(DataError, match="row 4: column 'summary' contains bytes, expected text"):
        load_examples(DataConfig(train=str(path)))


# What a query may not do, and what one that is none says.
FORBIDDEN = [
    "INSERT INTO t VALUES ('a', 'b')", "DELETE FROM t", "DROP TABLE t", "CREATE TABLE u (a int)", "VACUUM",
    "ATTACH '{other}' AS o", "SELECT document FROM t; DROP TABLE t", "WITH a AS (SELECT 1) DELETE FROM t",
    "WITH a AS (SELECT 1) INSERT INTO t SELECT 'a', 'b'", "SELECT * FROM nowhere", "SELECT", "SELECT 1 AS a, 2 AS a",
    "SELECT load_extension('x')", "PRAGMA writable_schema = 1", "SELECT * FROM pragma_database_list",
    "COPY t TO '{other}'",
    "SELECT * FROM read_text('{other}')", "SELECT * FROM '{other}'", "INSTALL fts", "SET threads = 4",
]  # fmt: skip


@both
@pytest.mark.parametrize("query", FORBIDDEN)
def test_what_does_not_only_read_is_one_line_and_changes_nothing(tmp_path, name, query):
    path, other = made(tmp_path / name, t=make_rows(3, 1)), tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    before = path.read_bytes()
    rows, message = in_one_line(lambda: rows_of(path, query.format(other=other)))
    if rows is not None:  # DuckDB's own list of databases has nothing of others
        assert (name, query) == ("a.duckdb", "SELECT * FROM pragma_database_list")
    assert message is None or message.startswith(str(path))
    assert path.read_bytes() == before
    assert other.read_text() == "a,b\n1,2\n"
    assert {p.name for p in tmp_path.iterdir()} == {name, "other.csv"}


ENDLESS = [
    "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k) SELECT max(n) AS n FROM k WHERE n < 0",
    "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k) SELECT n FROM k",
]


@both
@pytest.mark.parametrize("query", ENDLESS)
def test_what_never_ends_is_ended(tmp_path, monkeypatch, name, query):
    monkeypatch.setattr(databases, "SECONDS", 0.5)
    monkeypatch.setattr(databases, "MOST", 1000)
    path = made(tmp_path / name, t=make_rows(3, 1))
    message = in_one_line(lambda: rows_of(path, query))[1]
    assert "gave no row in 0.5 seconds" in message or "more than 1,000 rows" in message


def test_a_view_that_sorts_without_end_takes_no_more_memory_or_disk_than_is_allowed(tmp_path, monkeypatch):
    path = made(tmp_path / "a.sqlite", t=make_rows(3, 1))
    numbers = "with recursive c(x) as (select 1 union all select x + 1 from c)"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            f"create view v as {numbers} select hex(randomblob(9999)) document, x summary from c order by 1"
        )
    monkeypatch.setattr(databases, "MEMORY", 30_000_000)  # which holds for all of a process from then on

    def reads():
        try:
            rows_of(path, "v")
        except DataError as error:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return 0 if "a query takes more than 30,000,000 bytes" in str(error) and peak < before + 100_000 else 2
        return 1

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert forked(reads) == 0


def test_an_interrupt_ends_a_query_of_sqlite_as_an_interrupt(tmp_path):
    """A person presses Ctrl-C again if nothing happens: Python loses one that comes while it frees an object."""
    path, ended = made(tmp_path / "a.sqlite", t=make_rows(3, 1)), threading.Event()

    def press() -> None:
        while not ended.wait(1):
            signal.raise_signal(signal.SIGINT)

    presses = threading.Thread(target=press, daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    presses.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            rows_of(path, ENDLESS[0])
    finally:
        ended.set()
        presses.join()
        signal.signal(signal.SIGINT, before)


def test_virtual_tables_are_not_read_and_triggers_do_not_run(tmp_path):
    path = made(
        tmp_path / "a.sqlite", "create virtual table notes using fts5(document, summary)",
        "create view through as select document, summary from notes",
        "create trigger t1 after insert on t begin delete from t; end", t=make_rows(3, 1),
    )  # fmt: skip
    assert len(rows_of(path, "t")) == 3
    for part in ("notes", "notes_content", "through", "SELECT document, summary FROM notes"):
        assert in_one_line(lambda part=part: rows_of(path, part))[1].startswith(str(path))
    assert databases.tables_in(path) == ["t", "through"]
    assert rows_of(path, "SELECT value AS document FROM json_each('[\"a\"]')") == [{"document": "a"}]


def test_changes_that_are_not_in_the_file_yet_are_not_left_out_silently(tmp_path):
    path = made(tmp_path / "a.sqlite", t=make_rows(3, 1))
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode = wal")
    connection.execute("insert into t values ('a', 'b')")
    connection.commit()
    with pytest.raises(DataError, match="a.sqlite-wal has changes that are not in the database yet. Close the program"):
        rows_of(path)
    beside = path.with_name("a.sqlite-wal")
    assert not databases.begins_with(beside, b"other")
    with beside.open("ab") as file:
        file.truncate(1 << 40)  # is not read whole
    with pytest.raises(DataError, match="a.sqlite-wal has changes"):
        rows_of(path)
    connection.close()
    assert len(rows_of(path)) == 4


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"text", bytes(range(120, 160))])
def test_what_is_no_database_says_so(tmp_path, content):
    (tmp_path / "a.db").write_bytes(content)
    assert in_one_line(lambda: rows_of(tmp_path / "a.db"))[1].startswith(f"{tmp_path}/a.db: ")
    with pytest.raises(DataError, match="a.db"):
        load_examples(DataConfig(source=str(tmp_path / "a.db")))


@both
def test_a_damaged_database_is_its_rows_or_one_line(tmp_path, name):
    path = made(tmp_path / name, t=make_rows(30, 1))
    assert_damage_is_rows_or_one_line(path, path.read_bytes()[: 1 << 20], 40)


def test_without_duckdb_it_says_what_to_install(tmp_path, monkeypatch):
    path = made(tmp_path / "a.duckdb", t=make_rows(3, 1))
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(DataError, match=r"DuckDB databases need duckdb. Try: pip install 'bakeoff\[duckdb\]'"):
        rows_of(path)

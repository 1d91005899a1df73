"""Reads a table, a view or a query of a SQLite or DuckDB database, row by row, and changes nothing.

A database may come from elsewhere, and its views are code. So nothing but reading is allowed: no other files, no
extensions, no virtual tables (whose code parses what the file contains), and no query without limits.
"""

import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bakeoff.data.lines import LONGEST, Row
from bakeoff.data.sheets import only_table
from bakeoff.data.streams import Reading, opened
from bakeoff.data.tables import BATCH
from bakeoff.errors import DataError, did_you_mean

SECONDS = 300.0  # that the next rows may take
MOST = 10_000_000  # rows
MEMORY = 4_000_000_000  # bytes that a query may take; sorting writes nothing to the disk
QUERY = re.compile(r"[\s(]*(select|with|values|from)\s", re.IGNORECASE)
FUNCTIONS = ("json_each", "json_tree")  # SQLite's own tables that may be read
UNFINISHED = {"-wal": b"", "-journal": bytes.fromhex("d9d505f920a163d7")}  # files with changes, by how they begin
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,  # else rows without an ORDER BY may come in another order each time
    "enable_external_access": False, "autoload_known_extensions": False, "autoinstall_known_extensions": False,
    "allow_community_extensions": False, "memory_limit": f"{MEMORY}B", "temp_directory": "", "lock_configuration": True,
}  # fmt: skip


def database_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a table, view or query: the one that `reading` names, or the only table or view.

    Raises DataError if there is none, if it does anything but read, or if it does not end.
    """
    with database(path) as connection:
        tables = tables_of(connection)
        asked = only_table(path, tables, "table") if reading.part is None else reading.part
        where = f"{path} ({' '.join(asked.split()):.60})"
        if asked not in tables and not QUERY.match(asked):
            raise DataError(f"{path}: no table or view '{asked:.60}'.{did_you_mean(asked, tables)} Or write a query")
        query = selection(connection, asked, reading.columns) if asked in tables else asked
        for number, values in enumerate(rows_of(connection, query, where), start=1):
            if number > MOST:
                raise DataError(f"{where}: more than {MOST:,} rows. Try: a query with LIMIT")
            yield Row(where, number, values, unit="row ")


def tables_in(path: Path) -> list[str]:
    """Return the names of a database's tables and views; raise DataError if it cannot be read."""
    with database(path) as connection:
        return tables_of(connection)


@contextmanager
def database(path: Path) -> Iterator[Any]:
    """Open a database for reading only; raise DataError if the file is not a database, or cannot be read."""
    with opened(path) as stream:
        start = stream.read(16)
    if start[8:12] == b"DUCK":
        make, fault = opener_of_duckdb(path)
    elif start == b"SQLite format 3\0":
        make, fault = sqlite, sqlite3.Error
    else:
        raise DataError(f"{path}: neither a SQLite nor a DuckDB database")
    try:
        with closing(make(path)) as connection:
            yield connection
    except MemoryError:
        raise DataError(
            f"{path}: a query takes more than {MEMORY:,} bytes of memory. Try: a query without ORDER BY"
        ) from None
    except (fault, sqlite3.Warning) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: {reason:.300}. Only tables, views and queries that read them are allowed") from None


def sqlite(path: Path) -> sqlite3.Connection:
    """Return a connection to a SQLite database that allows nothing but reading its tables and views."""
    for ending, start in UNFINISHED.items():
        beside = path.with_name(path.name + ending)
        if beside.is_file() and begins_with(beside, start):
            raise DataError(
                f"{path}: {beside.name} has changes that are not in the database yet. Close the program that uses it"
            )
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.execute("PRAGMA trusted_schema = off")
    connection.execute("PRAGMA cell_size_check = on")
    connection.execute("PRAGMA temp_store = memory")
    connection.execute(f"PRAGMA hard_heap_limit = {MEMORY}")
    for name in FUNCTIONS:
        connection.execute(f"SELECT 1 FROM {name}('[]')")  # which declares it, and that is not allowed below
    known = {"sqlite_master", *FUNCTIONS, *tables_of(connection)}

    def allowed(action: int, name: str | None, other: str | None, *_: Any) -> int:
        reads = action == sqlite3.SQLITE_READ and (not name or name in known)
        asks = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
        calls = action == sqlite3.SQLITE_FUNCTION and other != "load_extension"
        return sqlite3.SQLITE_OK if reads or asks or calls else sqlite3.SQLITE_DENY

    connection.set_authorizer(allowed)
    connection.set_progress_handler(lambda: None, 1_000_000)  # so that Python looks for signals
    connection.text_factory = text_or_bytes
    return connection


def begins_with(file: Path, start: bytes) -> bool:
    """Return whether a file contains anything, and begins with these bytes."""
    with opened(file) as stream:
        begin = stream.read(len(start) or 1)
    return bool(begin) and begin.startswith(start)


def text_or_bytes(content: bytes) -> str | bytes:
    """Return a value of SQLite's type TEXT, as bytes if it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def opener_of_duckdb(path: Path) -> tuple[Any, type[Exception]]:
    """Return what opens a DuckDB database for reading only, and the errors that it raises."""
    try:
        import duckdb
    except ImportError:
        raise DataError(f"{path}: DuckDB databases need duckdb. Try: pip install 'bakeoff[duckdb]'") from None
    return lambda path: duckdb.connect(str(path), read_only=True, config=DUCKDB), duckdb.Error


def tables_of(connection: Any) -> list[str]:
    """Return the names of a database's tables and views, without virtual tables and what these are made of."""
    if not isinstance(connection, sqlite3.Connection):
        found = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'")
        return sorted(name for (name,) in found.fetchall())
    listed = connection.execute("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
    tables = {name: sql or "" for name, sql in listed if not name.startswith("sqlite_")}
    virtual = [name for name, sql in tables.items() if re.match(r"\s*create\s+virtual", sql, re.IGNORECASE)]
    return [name for name in tables if not any(name == v or name.startswith(f"{v}_") for v in virtual)]


def selection(connection: Any, table: str, columns: frozenset[str] | None) -> str:
    """Return the query for a table's rows; columns that are not needed are NULL."""
    names = names_of(connection.execute(f"SELECT * FROM {quoted(table)} LIMIT 0"))
    kept = [quoted(name) if columns is None or name in columns else f"NULL AS {quoted(name)}" for name in names]
    return f"SELECT {', '.join(kept)} FROM {quoted(table)}"


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def names_of(cursor: Any) -> list[str]:
    """Return the names of a result's columns."""
    return [column[0] for column in cursor.description or ()]


def rows_of(connection: Any, query: str, where: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a query; raise DataError if it does not only read, or takes too long."""
    if not isinstance(connection, sqlite3.Connection):
        kinds = [statement.type.name for statement in connection.extract_statements(query)]
        if kinds != ["SELECT"]:
            raise DataError(f"{where}: expected one query that reads, got {' and '.join(kinds) or 'none'}")
    with in_time(connection, where):
        cursor = connection.execute(query)
    names = names_of(cursor)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: two columns are named '{twice:.60}'. Give one another name in a query (AS ...)")
    while True:
        with in_time(connection, where):
            rows: Sequence[Sequence[Any]] = cursor.fetchmany(BATCH)
        if not rows:
            return
        yield from (dict(zip(names, row, strict=True)) for row in rows)


@contextmanager
def in_time(connection: Any, where: str) -> Iterator[None]:
    """Stop a query that gives no rows in time, and raise DataError."""
    over = threading.Event()

    def end() -> None:
        over.set()
        connection.interrupt()

    timer = threading.Timer(SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise DataError(f"{where}: gave no row in {SECONDS:g} seconds, so it was stopped") from None
        if str(error) == "interrupted":  # SQLite's, of Ctrl-C in the progress handler
            raise KeyboardInterrupt from None
        raise
    finally:
        timer.cancel()

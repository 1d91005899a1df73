"""Damaged data files and configs: rows as they were written, or one line; never another end, and never a long wait."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.cli.init import draft
from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.data.formats import read_rows
from bakeoff.data.sources import load_examples
from bakeoff.errors import BakeoffError
from tests.conftest import make_rows, many
from tests.test_formats import write

ROWS = [{**row, "id": f"r{i}", "topic": f"t {i}"} for i, row in enumerate(make_rows(30, 1))]
NAMES = ["a.jsonl", "list.json", "indented.json", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.feather"]
LINES = {"a.jsonl", "a.csv", "a.tsv"}  # where a row is a line
SECONDS = 10
JUNK = [b'"', b"\r", b"\n", b"\t,;|", b"{[", b"\\", b"\xff\xfe"]


@st.composite
def damages(draw, content: bytes):
    """Draw damaged content, and where the first damage is."""
    first = len(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["truncate", "flip", "insert", "zeros", "repeat", "remove"]))
        if kind == "truncate":
            content = content[:at]
        elif kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif kind == "insert":
            junk = draw(
                st.binary(max_size=6) | st.sampled_from([b'"', b"\r", b"\n", b"\t,;|", b"{[", b"\\", b"\xff\xfe"])
            )
            content = content[:at] + junk + content[at:]
        elif kind == "zeros":
            content = content[:at] + bytes(draw(st.integers(1, 40))) + content[at:]
        elif kind == "repeat":
            content = content[:at] + content[max(0, at - 50) : at] + content[at:]
        else:
            content = content[:at] + content[at + draw(st.integers(1, 60)) :]
        first = min(first, at)
    return content, first


def in_one_line(work):
    """Return what is made, or the message of the one line; in good time."""
    started = time.process_time()
    try:
        return work(), None
    except BakeoffError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 2_100
        return None, message
    finally:
        assert time.process_time() - started < SECONDS


def assert_damage_is_rows_or_one_line(file, content, examples):
    """Damage a data file that held this content, again and again: it is read, or refused in a line on `data`."""

    @many(examples)
    @given(damages(content))
    def damaged(damage):
        file.write_bytes(damage[0])
        message = in_one_line(lambda: load_examples(DataConfig(train=str(file))))[1]
        assert message is None or message.startswith("data.")

    damaged()


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_data_file_is_its_rows_or_one_line(tmp_path, name):
    file = write(tmp_path / name, ROWS)
    whole = file.read_bytes()

    @many(60)
    @given(damages(whole))
    def damaged(damage):
        content, first = damage
        file.write_bytes(content)
        rows, message = in_one_line(lambda: list(read_rows([file])))
        assert message is None or str(file) in message
        if name in LINES and rows is not None:
            header = 0 if name == "a.jsonl" else 1
            untouched = max(0, whole[:first].count(b"\n") - header)
            assert [row.values for row in rows[:untouched]] == ROWS[:untouched]
        data = DataConfig(train=str(file), id="id", group="topic")
        made, message = in_one_line(lambda: load_examples(data, "{{ topic }}: {{ document }}", "{{ summary }}"))
        assert message is None or message.startswith("data.")
        if made is not None:
            assert all(e.document and e.summary for split in made[0].values() for e in split)
        in_one_line(lambda: load_examples(data.model_copy(update={"unusable": "drop"})))
        in_one_line(lambda: draft([file], tmp_path / "c.yaml"))
        assert file.read_bytes() == content

    damaged()


def test_a_damaged_shard_of_a_folder_is_one_line_with_its_name(tmp_path):
    for i in range(2):
        write(tmp_path / f"train-0000{i}-of-00002.parquet", ROWS[15 * i : 15 * i + 15])
    shard = tmp_path / "train-00001-of-00002.parquet"
    whole = shard.read_bytes()

    @many(40)
    @given(damages(whole))
    def damaged(damage):
        shard.write_bytes(damage[0])
        _, message = in_one_line(lambda: load_examples(DataConfig(source=str(tmp_path), id="id")))
        few = "too few different documents"  # a shard without checksums may be read as one that repeats a row
        assert message is None or shard.name in message or (few in message and str(tmp_path) in message)

    damaged()


GOOD = yaml.safe_dump({
    "model": "base", "data": {"train": "a.jsonl", "document": "document", "train_limit": 8},
    "template": "{{ title | upper }} {{ document }}\n", "target": "{{ row['a b'] }} {{ summary }}",
    "entries": {"a": {"method": "lora", "r": {"low": 4, "high": 8}}, "prompt_tuning": {}}, "metrics": ["rouge", "chrf"],
    "tune": {"trials": 2}, "protocol": {"epochs": 1, "trunk_cache": "2GB"}, "safety": {"memory_limit": "8GB"},
}).encode()  # fmt: skip


@many(60)
@given(damages(GOOD))
def test_a_damaged_config_is_one_or_one_line(tmp_path, damage):
    file = tmp_path / "c.yaml"
    file.write_bytes(damage[0])
    _, message = in_one_line(lambda: load_config(file))
    assert message is None or message.startswith(str(file))


@many(60)
@given(damages(json.dumps(yaml.safe_load(GOOD)).encode()))
def test_a_damaged_config_in_json_is_one_or_one_line(tmp_path, damage):
    file = tmp_path / "c.yaml"
    file.write_bytes(damage[0])
    _, message = in_one_line(lambda: load_config(file))
    assert message is None or message.startswith(str(file))


def test_a_row_of_megabytes_is_gone_through_once(tmp_path):
    """Two megabytes in one row, or in one text, take seconds: nothing is gone through again and again."""

    def seconds(path: Path, content: bytes) -> float:
        path.write_bytes(content)
        started = time.process_time()
        in_one_line(lambda: list(read_rows([path])))
        return time.process_time() - started

    cases = {
        "a.json": lambda n: b'[{"a": "' + b"x" * n + b'"}]',
        "b.json": lambda n: b'[{"a": [' + b"0," * (n // 2) + b"0]}]",
        "c.json": lambda n: b'[{"a": "' + b"x" * n,
        "a.csv": lambda n: b"a,b\n" + b"," * n + b"\n",
        "b.csv": lambda n: b"," * n + b"\n1,2\n",
        "c.csv": lambda n: b'a,b\n"' + b"x\n" * (n // 2),
        "a.tsv": lambda n: b'a\tb\n"' + b'x\t"\n' * (n // 40),
        "a.jsonl": lambda n: b'{"a": ' + b"[" * n,
    }
    for name, made in cases.items():
        assert seconds(tmp_path / name, made(2_000_000)) < SECONDS, name

"""Compressed files, other encodings, and JSON that is an object of objects."""

import bz2
import gzip
import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.data import json_documents, streams
from bakeoff.data.formats import first_rows, read_rows
from bakeoff.data.sources import load_examples
from bakeoff.data.streams import Reading, opened
from bakeoff.errors import ConfigError, DataError
from tests.conftest import make_rows, many
from tests.test_damage import assert_damage_is_rows_or_one_line, damages, in_one_line
from tests.test_formats import write

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda content: pyarrow.compress(content, "zstd", True)}
TEXTS = ["a.jsonl", "a.json", "list.json", "a.csv", "a.tsv"]
ROWS = [{"document": f'Gr\u00fc\u00dfe {i},\n"a"', "summary": f"caf\u00e9 {i}"} for i in range(300)]


def packed(path, ending, content=None):
    """Write a file's content, or other content, compressed beside it."""
    made = path.with_name(path.name + ending)
    made.write_bytes(PACK[ending](path.read_bytes() if content is None else content))
    return made


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("name", TEXTS)
def test_a_compressed_file_has_the_rows_of_the_file_in_it(tmp_path, ending, name):
    path = packed(write(tmp_path / name, ROWS), ending)
    assert [row.values for row in read_rows([path])] == ROWS
    splits = load_examples(DataConfig(train=str(path)))[0]
    assert sorted(e.document for rows in splits.values() for e in rows) == sorted(row["document"] for row in ROWS)
    with opened(path) as stream:
        start = stream.read(5)
        stream.seek(1)
        assert stream.read(4) == start[1:]


def test_a_folder_of_compressed_files_is_its_splits(tmp_path):
    for i, name in enumerate(("train-00000-of-00001.jsonl", "dev.csv", "test.tsv")):
        path = write(tmp_path / name, make_rows(5 + i, i))
        packed(path, ".gz")
        path.unlink()
    splits = load_examples(DataConfig(source=str(tmp_path)))[0]
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [5, 6, 7]


@pytest.mark.parametrize("ending", PACK)
def test_a_bomb_is_one_line_before_it_fills_anything(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(streams, "SMALL", 1 << 20)
    bomb = PACK[ending](b'{"document": "' + b"a" * 40_000_000 + b'"}')
    (tmp_path / f"a.jsonl{ending}").write_bytes(bomb)
    message = in_one_line(lambda: list(read_rows([tmp_path / f"a.jsonl{ending}"])))[1]
    assert "MiB, far more than a text does. If you trust it, unpack it yourself" in message


def test_what_cannot_be_compressed_is_refused(tmp_path):
    for name, ending in (("a.parquet.gz", ".parquet.gz"), ("a.tar.gz", ".tar.gz"), ("a.xlsx.zst", ".xlsx.zst")):
        (tmp_path / name).write_bytes(gzip.compress(b"x"))
        message = in_one_line(lambda name=name: list(read_rows([tmp_path / name])))[1]
        assert f"{ending} is not a known format. Allowed: " in message


@pytest.mark.parametrize("ending", PACK)
def test_a_damaged_compressed_file_is_its_rows_or_one_line(tmp_path, ending):
    path = packed(write(tmp_path / "a.csv", make_rows(30, 1)), ending)
    assert_damage_is_rows_or_one_line(path, path.read_bytes(), 60)


@many(80)
@given(
    st.sampled_from(["cp1252", "utf-16", "utf-16-le", "shift_jis", "gb18030", "koi8-r", "utf-8-sig"]),
    st.lists(st.text(st.sampled_from('a,"\n\u00e9\u30c6\u0436\u20ac'), min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from(["a.csv", "a.jsonl", "list.json"]), st.integers(1, 9),
)  # fmt: skip
def test_any_encoding_gives_the_texts_that_were_written(tmp_path, encoding, texts, name, block):
    texts = [kept for t in texts if (kept := t.encode(encoding, "ignore").decode(encoding)).strip()]
    rows = [{"document": f"x{text}", "summary": "s"} for text in texts]
    if not rows:
        return
    path = write(tmp_path / name, rows)
    with path.open(encoding="utf-8", newline="") as file:
        content = file.read()
    path.write_bytes(content.encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK", block)
        assert [row.values for row in read_rows([path], Reading(encoding))] == rows


def test_the_config_names_the_encoding_and_a_refusal_proposes_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"document,summary\n" + b"".join(f"caf\u00e9 {i},s{i}\n".encode("cp1252") for i in range(60)))
    with pytest.raises(DataError, match=r"a.csv:2: not UTF-8 text .*Set data.encoding to the file's own .* cp1252"):
        load_examples(DataConfig(train=str(path)))
    splits = load_examples(DataConfig(train=str(path), encoding="Windows-1252"))[0]
    assert any(e.document == "caf\u00e9 7" for rows in splits.values() for e in rows)
    for encoding, message in (("ascii", "a.csv:2: not text in the encoding ascii"), ("utf-16", "a.csv:1: not text in")):
        with pytest.raises(DataError, match=message):
            load_examples(DataConfig(train=str(path), encoding=encoding))


@pytest.mark.parametrize("name", ["cp1525", "base64", "rot13", "zip", "", "../x", "undefined"])
def test_an_encoding_that_is_none_of_text_is_refused(name):
    with pytest.raises(ConfigError, match="data.encoding: "):
        load_config({"data": {"train": "a", "encoding": name}, "entries": ["lora"]})


def test_an_encoding_without_a_file_is_refused():
    with pytest.raises(ConfigError, match="'encoding' is set, but source: docstrings does not use it"):
        load_config({"data": {"source": "docstrings", "encoding": "cp1252"}, "entries": ["lora"]})
    with pytest.raises(DataError, match="data.encoding: cp1252: only files have one"):
        load_examples(DataConfig(source="some/dataset", encoding="cp1252"))


OBJECT = {f"id {i}": {"document": f"d {i}", "summary": f's "{i}"'} for i in range(100)}


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_object_of_objects_is_rows_with_their_keys(tmp_path, monkeypatch, indent, ending):
    monkeypatch.setattr(json_documents, "BLOCK", 50)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(OBJECT, indent=indent))
    path = packed(path, ending) if ending else path
    rows = list(read_rows([path]))
    assert [row.values for row in rows] == [{"key": key, **value} for key, value in OBJECT.items()]
    assert len({row.name for row in rows}) == 100
    path.with_name("b.json").write_text(f"{' ' * 5000}\n{json.dumps(OBJECT, indent=indent)}")
    assert [row.values for row in read_rows([path.with_name("b.json")])] == [row.values for row in rows]
    splits = load_examples(DataConfig(train=str(path), id="key"))[0]
    assert {e.id for part in splits.values() for e in part} == {*OBJECT}


def test_a_column_named_key_stays_and_nested_lines_are_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x": {"key": "own", "document": "a"},\n "y": 3}')
    first, second = read_rows([path])
    assert first.values == {"key": "own", "document": "a"}
    assert second.fault == ("no JSON object", "expected a JSON object, got a number")
    path.write_text('{"t": {"de": "a"}, "n": 1}\n{"t": {"de": "b"}, "n": 2}\n')
    assert first_rows([path]).rows == [{"t": {"de": "a"}, "n": 1}, {"t": {"de": "b"}, "n": 2}]
    (tmp_path / "a.jsonl").write_text('{"t": {"de": "a"}}\n')
    assert first_rows([tmp_path / "a.jsonl"]).rows == [{"t": {"de": "a"}}]


def test_a_damaged_object_of_objects_is_its_rows_or_one_line(tmp_path):
    path = tmp_path / "a.json"
    whole = json.dumps(OBJECT, indent=1).encode()

    @many(80)
    @given(damages(whole))
    def damaged(damage):
        path.write_bytes(damage[0])
        rows, message = in_one_line(lambda: list(read_rows([path])))
        assert message is None or str(path) in message

    damaged()

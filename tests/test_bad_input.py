"""Spoilt data and data configs: exit 2, one line that names file and line or key, and nothing of the user's changed."""

import gzip
import json
import re
import string
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.data.sources import load_examples
from bakeoff.errors import BakeoffError
from tests.conftest import make_rows, many, write_rows
from tests.test_formats import write

GOOD = [{"document": row["document"], "summary": row["summary"]} for row in make_rows(12, 1)]


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(tmp_path):
    return write(tmp_path / "whole.parquet", GOOD).read_bytes()


ROW = GOOD[0]
# File, what is in it (bytes, or a function of a folder), and what must be said of it.
FILES = [
    ("t.jsonl", b"", "data.train: .*t.jsonl: has no examples"),
    ("t.jsonl", b"\xef\xbb\xbf\n \n", "data.train: .*t.jsonl: has no examples"),
    ("t.jsonl", jsonl(ROW, {"document": "a"}), "t.jsonl:2: no column 'summary'"),
    ("t.jsonl", jsonl({"Document": "a", "summary": "b"}), "t.jsonl:1: no column 'document'. Did you mean 'Document'"),
    ("t.jsonl", jsonl(ROW, {**ROW, "summary": None}), "t.jsonl:2: column 'summary' contains nothing, expected text"),
    ("t.jsonl", jsonl(ROW, {**ROW, "document": ["a", 3]}), "t.jsonl:2: column 'document' contains a list"),
    ("t.jsonl", jsonl(ROW, {**ROW, "document": {"a": 1}}), "t.jsonl:2: column 'document' contains keys and values"),
    ("t.jsonl", jsonl(ROW, {**ROW, "summary": True}), "t.jsonl:2: column 'summary' contains true or false"),
    ("t.jsonl", jsonl(ROW, {**ROW, "document": " \t\u2003\n"}), "t.jsonl:2: column 'document' is empty"),
    ("t.jsonl", jsonl(ROW, {**ROW, "summary": []}), "t.jsonl:2: column 'summary' contains an empty list"),
    ("t.jsonl", jsonl(ROW, {**ROW, "summary": ["a", ""]}), "t.jsonl:2: column 'summary', item 2 is empty"),
    ("t.jsonl", jsonl(ROW) + b'{"document": "\xff", "summary": "b"}\n', "t.jsonl:2: not UTF-8 text"),
    ("t.jsonl", jsonl(ROW).decode().encode("utf-16"), "t.jsonl:1: not UTF-8 text"),
    ("t.jsonl", jsonl(ROW) + b'{"document": "a", "summary', "t.jsonl:2: not JSON"),
    ("t.jsonl", jsonl(ROW).replace(b"}", b"},"), "t.jsonl:1: not JSON"),
    ("t.jsonl", b"\x00" * 100, "t.jsonl:1: not JSON"),
    ("t.jsonl", jsonl(ROW) + b"[" * 100_000, "t.jsonl:2: not JSON"),
    ("t.jsonl", jsonl(ROW) + b'{"document": ' + b"9" * 5000 + b', "summary": "b"}', "t.jsonl:2: not JSON|holds a num"),
    ("t.jsonl", jsonl(ROW) + b'"text"\n', "t.jsonl:2: expected a JSON object, got text"),
    ("t.jsonl", b'{"document": "a\\udc00", "summary": "b"}', "t.jsonl:1: column 'document' contains half a surrogate"),
    ("t.json", b"[" + jsonl(ROW).strip() + b", 3]", r"t.json:1 \(item 2\): expected a JSON object, got a number"),
    ("t.json", b"[" + jsonl(ROW).strip(), "t.json:1: not JSON .the list is not closed"),
    ("t.json", b'[{"document": "a"\n "summary": "b"}]', "t.json:2: not JSON"),
    ("t.json", b"[] []", "t.json:1: not JSON .something follows the list"),
    ("t.json", json.dumps({"data": GOOD}, indent=1).encode(), "t.json:1: not JSON"),
    ("t.csv", b"document,summary\n", "t.csv: has no examples"),
    ("t.csv", b"document,summary\na,b\nc\n", "t.csv:3: 1 fields, but the header names 2 columns"),
    ("t.csv", b"document,summary\na,b\nc,d,e\n", "t.csv:3: 3 fields"),
    ("t.csv", b'document,summary\na,b\n"c,d\ne,f\n', "t.csv:3: not CSV .*a double quote opened and never closed"),
    ("t.csv", b"document,document\na,b\n", "t.csv:1: two columns are named 'document'"),
    ("t.csv", b"document,summary\na,\xe9t\xe9\n", "t.csv:2: not UTF-8 text"),
    ("t.csv", "document,summary\na,b\n".encode("utf-16"), "t.csv:1: not UTF-8 text, but UTF-16. Set data.encoding"),
    ("t.csv", b"a,b\nc,d\n", "t.csv:2: no column 'document'. Allowed: a, b"),
    ("t.csv", b"a good film,1\na bad one,0\n", "no column .document.. .* Its first row.* is the row .* missing"),
    ("t.csv", b"long " * 30 + b",b\nc,d\n", "t.csv:2: no column 'document'. .* is the row .* missing"),
    ("t.csv", b"0,1\na,b\n", "t.csv:2: no column 'document'. .*Set data.document, summary or references$"),
    ("t.tsv", b"document,summary\na,b\n", "t.tsv:2: no column 'document'"),
    ("t.parquet", b"PAR1 nothing", "t.parquet: not a complete parquet file"),
    ("t.parquet", lambda folder: parquet(folder)[:-40], "t.parquet: not a complete parquet file"),
    ("t.parquet", lambda folder: parquet(folder)[:200] + b"\xff" * 90 + parquet(folder)[290:], "t.parquet: "),
    ("t.arrow", b"ARROW1", "t.arrow: not a complete arrow file"),
    ("t.arrow", jsonl(ROW), "t.arrow: not a complete arrow file"),
    ("t.ods", b"PK\x03\x04", "t.ods: .ods is not a known format. Allowed: .jsonl"),
    ("t.xlsx", b"PK\x03\x04", "t.xlsx: not a complete .xlsx file"),
    ("t.jsonl.xz", jsonl(ROW), "t.jsonl.xz: .xz is not a known format"),
    ("t.jsonl.gz", gzip.compress(jsonl(ROW), mtime=0)[:-9], "t.jsonl.gz: not a complete .gz file"),
    ("t", b"plain prose\n", "t:1: not JSON"),
]  # fmt: skip


@pytest.fixture
def attempt(tmp_path, tiny_model):
    """Plan a bakeoff by the command line; return its message after checking what holds for every bad input."""
    for split in ("validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", GOOD[:6])

    def plan(data, **keys):
        usual = {"validation": "validation.jsonl", "test": "test.jsonl"}
        given_data = {**usual, **data} if isinstance(data, dict) else data
        config = {"model": str(tiny_model), "data": given_data, "entries": ["lora"], "tune": False, **keys}
        (tmp_path / "bad.yaml").write_text(json.dumps(config))
        before = contents(tmp_path)
        result = CliRunner().invoke(main, ["plan", str(tmp_path / "bad.yaml")])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert result.stderr.startswith("bakeoff: ")
        assert result.stderr.count("\n") == 1
        assert contents(tmp_path) == before
        return result.stderr

    return plan


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_a_spoilt_file_is_named(tmp_path, attempt, name, content, message):
    (tmp_path / name).write_bytes(content(tmp_path / "..") if callable(content) else content)
    said = attempt({"train": name})
    assert re.search(message, said), said


CONFIGS = [
    ({"train": "none.jsonl"}, {}, "data.train: .*none.jsonl: no such file"),
    ({"train": "empty"}, {}, "data.train: .*empty: the folder has no data files"),
    ({"train": "\0"}, {}, "data.train: contains a null character"),
    ({"train": "good.jsonl", "document": "text"}, {}, "good.jsonl:1: no column 'text'"),
    ({"train": "good.jsonl", "group": "who"}, {}, "good.jsonl:1: no column 'who'"),
    ({"train": "good.jsonl", "id": "key"}, {}, "good.jsonl:1: no column 'key'"),
    ({"train": "good.jsonl", "references": ["one"]}, {}, "test.jsonl:1: no column 'one'"),
    ({"train": "good.jsonl", "references": "a", "references_file": "no.jsonl"}, {}, "no.jsonl: no such"),
    ({"train": "good.jsonl", "references": "summary", "references_file": "good.jsonl"}, {}, "have different numbers"),
    ({"train": "good.jsonl", "validation": None, "validation_share": 1e-9}, {}, "data.validation: too few different"),
    ({"train": "good.jsonl", "columns": "x"}, {}, "data.columns: unknown key"),
    ({"train": "good.jsonl", "train_limit": 0}, {}, "data.train_limit: must be greater than or equal to 1"),
    ({"train": 5}, {}, "data.train: expected text, got 5. Try: quotes around it"),
    ({"train": "validation.jsonl", "shared_documents": "drop"}, {}, "data.train: every document is also in"),
    ({"source": "docstring"}, {}, "data.source: unknown source 'docstring'. Did you mean 'docstrings'"),
    ({"source": "./nowhere"}, {}, "data.source: ./nowhere: no such folder"),
    ({"source": "no-one/no-such-data"}, {}, "data.source: no-one/no-such-data: not on this machine"),
    ({"source": "empty", "validation": None, "test": None}, {}, "data.train: .*empty: the folder has no data files"),
    ({"train": "good.jsonl"}, {"template": "{{ title }} {{ document }}"}, "good.jsonl:1: template: no column 'title'"),
    ({"train": "good.jsonl"}, {"template": "{{ document"}, "template: not a template"),
    ({"train": "good.jsonl"}, {"target": "{{ label }}"}, "good.jsonl:1: target: no column 'label'"),
    ({"train": "good.jsonl"}, {"target": "{{ summary[:0] }}"}, "good.jsonl:1: target is empty"),
    ({"train": "good.jsonl"}, {"metrics": ["blue"]}, "metrics: unknown metric 'blue'. Did you mean 'bleu'"),
    ({"train": "good.jsonl"}, {"metrics": ["no_such_module:f"]}, "metrics: no_such_module:f: cannot be imported"),
    ({"train": "good.jsonl"}, {"primary": "rougel"}, "primary: no metric gives .*'rougel'.*Did you mean 'rougeL'"),
    ("docstrings", {"template": "{{ title }} {{ document }}"}, "template: the docstring task has no columns but"),
    ([], {}, "data: expected keys and values"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "keys", "message"), CONFIGS)
def test_a_config_that_does_not_fit_its_data_is_named(tmp_path, attempt, data, keys, message):
    write_rows(tmp_path / "good.jsonl", GOOD)
    (tmp_path / "empty").mkdir()
    said = attempt(data, **keys)
    assert re.search(message, said), said


SUFFIXES = st.sampled_from(["", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather"])


def only_in_one_line(work):
    try:
        work()
    except BakeoffError as error:
        assert "\n" not in str(error)  # noqa: PT017 - what passes is fine too
        return str(error)
    return None


@many(150)
@given(SUFFIXES, st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_are_data_or_one_line_that_names_the_file(tmp_path, suffix, content):
    file = tmp_path / f"fuzz{suffix}"
    file.write_bytes(content)
    config = load_config({"data": {s: str(file) for s in ("train", "validation", "test")}, "entries": ["lora"]})
    said = only_in_one_line(lambda: load_examples(config.data))
    assert said is None or str(file) in said
    assert file.read_bytes() == content


@many(150)
@given(st.sampled_from(["a.jsonl", "list.json", "a.csv", "a.parquet", "a.arrow"]), st.data())
def test_a_whole_file_with_some_bytes_changed_is_data_or_one_line(tmp_path, name, data):
    file = write(tmp_path / name, GOOD)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    config = load_config({"data": {s: str(file) for s in ("train", "validation", "test")}, "entries": ["lora"]})
    said = only_in_one_line(lambda: load_examples(config.data))
    assert said is None or str(file) in said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "source", "config", "train", "validation", "test", "document", "summary", "id", "group", "references",
    "references_file", "unusable", "train_limit", "validation_share", "shared_documents",
)  # fmt: skip
KEYS = st.sampled_from(NAMES) | st.text(string.ascii_lowercase, max_size=8)


@many(150)
@given(st.dictionaries(KEYS, VALUES, max_size=4), VALUES, VALUES, VALUES)
def test_any_values_of_the_keys_about_data_are_a_config_or_one_line(tmp_path, data, template, target, metrics):
    good = str(write_rows(tmp_path / "good.jsonl", GOOD))
    raw = {"data": {"train": good, **data}, "entries": ["lora"], "template": template, "target": target}

    def load():
        config = load_config({**raw, "metrics": metrics} if metrics else raw)
        if config.data.of_files:
            load_examples(config.data, config.template, config.target)

    only_in_one_line(load)


@many(150)
@given(st.text(st.sampled_from("{}%#|.[]()'\" \nabdocument+-*0~"), max_size=60))
def test_any_template_is_one_or_says_why_not(text):
    for key in ("template", "target"):
        only_in_one_line(lambda key=key: load_config({"data": {"train": "a"}, "entries": ["lora"], key: text}))

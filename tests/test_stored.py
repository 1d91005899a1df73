"""Examples that stay in their files, and what that costs in memory."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.data import stored, tokens
from bakeoff.data.columns import columns_of
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form
from bakeoff.data.sources import content_identity, load_examples
from bakeoff.data.stored import store_files
from bakeoff.data.token_file import lengths_of, load_tokens, save_tokens
from bakeoff.data.tokens import encode
from bakeoff.errors import ConfigError, DataError
from bakeoff.store.files import write_jsonl
from tests.conftest import WORDS, make_rows, write_rows


def config_of(folder, **fields):
    for split in ("train", "validation", "test"):
        if not (folder / split).exists():
            write_rows(folder / split, make_rows(5, 1))
    return DataConfig(**{s: str(folder / s) for s in ("train", "validation", "test")}, **fields)


def test_rows_are_read_as_they_stand_in_the_file(tmp_path):
    rows = make_rows(2300, 3)
    lines = [json.dumps(row) for row in rows]
    lines[7] += "\r"
    lines[5:5] = ["", "   "]
    (tmp_path / "a").write_text("\n".join(lines))
    examples = store_files([tmp_path / "a"], columns_of("document", "summary"))[0]
    expected = [
        Example(str(n), row["document"], row["summary"])
        for n, row in zip([i + 1 if i < 5 else i + 3 for i in range(len(rows))], rows, strict=True)
    ]
    assert list(examples) == expected
    assert [examples[0], examples[6], examples[-1]] == [expected[0], expected[6], expected[-1]]
    assert list(examples[1000:1004]) == expected[1000:1004]
    assert list(reversed(examples[4:7])) == expected[6:3:-1]


def test_a_limit_takes_the_rows_whose_contents_hash_lowest(tmp_path):
    rows = make_rows(50, 9)
    write_rows(tmp_path / "train", [*rows, *rows[:5]])
    hashes = [hashlib.sha256(f"{r['document']}\0{r['summary']}".encode()).digest() for r in [*rows, *rows[:5]]]
    lowest = sorted(sorted(range(55), key=lambda i: (hashes[i], i))[:20])
    taken = load_examples(config_of(tmp_path, train_limit=20))[0]["train"]
    assert [int(e.id) - 1 for e in taken] == lowest


@pytest.mark.parametrize("change", ["other text", "fewer rows", "no json", "gone"])
def test_a_file_that_changes_while_in_use_is_refused(tmp_path, change):
    rows = make_rows(30, 1)
    file = write_rows(tmp_path / "a", rows)
    examples = store_files([file], columns_of("document", "summary"))[0]
    if change == "other text":
        write_rows(file, [*rows[:20], {**rows[20], "document": rows[20]["document"][::-1]}, *rows[21:]])
    elif change == "fewer rows":
        write_rows(file, rows[:20])
    elif change == "no json":
        file.write_text("x" * file.stat().st_size)
    else:
        file.unlink()
    with pytest.raises(DataError, match="a: no such file" if change == "gone" else "changed while it was in use") as e:
        list(examples)
    assert "\n" not in str(e.value)
    with pytest.raises(DataError):
        examples[20]


REFERENCES = {"a": ["ba be", "bi bo"], "b": ["bu", "ba", "be bi bo"], "c": ["be"]}


def test_references_may_stand_in_the_summarys_column(tmp_path):
    write_rows(tmp_path / "test", [{"document": d, "summary": r} for d, r in REFERENCES.items()])
    splits = load_examples(config_of(tmp_path))[0]
    assert [e.summary for e in splits["test"]] == ["ba be", "bu", "be"]
    assert [e.references for e in splits["test"]] == [("ba be", "bi bo"), ("bu", "ba", "be bi bo"), ()]
    assert [Example.from_row(json.loads(json.dumps(e.row()))) for e in splits["test"]] == list(splits["test"])
    assert "references" not in splits["train"][0].row()
    before = content_identity(splits)
    changed = {**REFERENCES, "b": ["bu", "ba", "be"]}
    write_rows(tmp_path / "test", [{"document": d, "summary": r} for d, r in changed.items()])
    assert content_identity(load_examples(config_of(tmp_path))[0]) != before


def test_references_may_stand_in_columns_of_their_own_or_in_a_file_beside(tmp_path):
    documents = [{"document": d, "one": r[0], "two": r[-1], "all": r} for d, r in REFERENCES.items()]
    write_rows(tmp_path / "test", documents)
    expected = [(r[0], r[-1]) for r in REFERENCES.values()]
    two = load_examples(config_of(tmp_path, references=["one", "two"]))[0]["test"]
    assert [e.references for e in two] == expected
    assert [e.summary for e in two] == [r[0] for r in REFERENCES.values()]
    every = [tuple(r) if len(r) > 1 else () for r in REFERENCES.values()]
    assert [e.references for e in load_examples(config_of(tmp_path, references="all"))[0]["test"]] == every

    write_rows(tmp_path / "beside", [{"texts": r} for r in REFERENCES.values()])
    beside = config_of(tmp_path, references="texts", references_file=str(tmp_path / "beside"), test_limit=2)
    taken = load_examples(beside)[0]["test"]
    assert [REFERENCES[e.document] for e in taken] == [list(e.references or [e.summary]) for e in taken]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"texts": ["a"]}, {"texts": []}, {"texts": ["a"]}], "beside:2: column 'texts' contains an empty list"),
        (
            [{"texts": ["a"]}, {"texts": ["a", 5]}, {"texts": ["a"]}],
            "beside:2: column 'texts', item 2 contains a number",
        ),
        ([{"texts": ["a"]}, {"text": ["a"]}, {"texts": ["a"]}], "beside:2: no column 'texts'. Did you mean 'text'"),
        ([{"texts": ["a"]}] * 2, "test:3: .*test and .*beside have different numbers of rows"),
        ([{"texts": ["a"]}] * 4, "beside:4: .*have different numbers of rows"),
    ],
)
def test_references_that_cannot_be_used_are_named(tmp_path, rows, message):
    write_rows(tmp_path / "test", make_rows(3, 1))
    write_rows(tmp_path / "beside", rows)
    with pytest.raises(DataError, match=message) as caught:
        load_examples(config_of(tmp_path, references="texts", references_file=str(tmp_path / "beside")))
    assert "\n" not in str(caught.value)


def test_a_references_file_is_relative_to_the_config_file_and_needs_its_column(tmp_path):
    text = "data: {train: a, validation: b, test: c, references_file: sub/refs.jsonl%s}\nentries: [lora]\n"
    (tmp_path / "c.yaml").write_text(text % ", references: texts")
    assert load_config(tmp_path / "c.yaml").data.references_file == str(tmp_path / "sub/refs.jsonl")
    (tmp_path / "c.yaml").write_text(text % "")
    with pytest.raises(ConfigError, match="data: 'references' is missing. Name the column of references_file"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="data: 'references' must be a column"):
        load_config({"data": {"source": "docstrings", "references": "x"}, "entries": ["lora"]})


def test_rows_are_written_as_they_come_and_a_failure_leaves_the_old_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"a": 1}])

    def rows():
        for i in range(1_000):
            assert file.read_text() == '{"a": 1}\n'
            yield {"a": "x" * 1000}
            if i == 600:
                assert max(p.stat().st_size for p in tmp_path.iterdir()) > 500_000
        raise DataError("changed")

    with pytest.raises(DataError):
        write_jsonl(file, rows())
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    assert file.read_text() == '{"a": 1}\n'


def peak_of(folder: Path, count: int, tokenizer) -> int:
    """The most that Python and numpy hold while rows are read, limited, encoded, written and loaded again."""
    folder.mkdir()
    with (folder / "train").open("w") as file:
        for i in range(count):
            words = [WORDS[(i * k) % len(WORDS)] for k in range(1, 13)]
            file.write(json.dumps({"document": " ".join(words), "summary": " ".join(words[:3])}) + "\n")
    config = config_of(folder, train_limit=count - 1)
    tracemalloc.start()
    try:
        splits, _ = load_examples(config)
        content_identity(splits)
        save_tokens(
            folder / "ids", encode(splits["train"], make_form(tokenizer, "{{ document }}:", False), 48, 8, "data.train")
        )
        write_jsonl(folder / "rows", (e.row() for e in splits["train"]))
        rows = load_tokens(folder / "ids")
        assert lengths_of(rows).totals.sum() == 17 * (count - 1)
        assert len(rows[count - 2]) == 17
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_a_few_bytes_a_row(base, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK_EXAMPLES", 100)  # what goes through the tokenizer at once is no growth
    monkeypatch.setattr(stored, "BLOCK", 100)
    few, many = 500, 3_500
    peak_of(tmp_path / "first", 50, base.tokenizer)  # what is made once
    growth = peak_of(tmp_path / "many", many, base.tokenizer) - peak_of(tmp_path / "few", few, base.tokenizer)
    assert growth / (many - few) < 150  # some 50; with a list of either examples or tokens some 300

from pathlib import Path

import pytest

from bakeoff.config.data import DataConfig
from bakeoff.data import docstrings
from bakeoff.data.docstrings import MANIFEST, fingerprint, iter_docstrings, split_summary
from bakeoff.data.sources import content_identity, load_examples
from bakeoff.errors import DataError
from tests.conftest import make_rows, write_rows

BODY = "The body says in many words what the function does with its arguments, " * 3
ROOT = Path(__file__).parent.parent


def files(tmp_path, **texts):
    for split in ("train", "validation", "test"):
        if split in texts:
            (tmp_path / split).write_bytes(texts[split].encode("utf-8", "surrogateescape"))
        else:
            write_rows(tmp_path / split, make_rows(3, 1))
    return DataConfig(**{s: str(tmp_path / s) for s in ("train", "validation", "test")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.train: .*no examples"),
        ("\n\n", "data.train: .*no examples"),
        ('{"document": "a", "summary": "b"}\n{"document": "a"}', r"train:2: no column 'summary'"),
        ('{"documents": "a", "summary": "b"}', r"train:1: no column 'document'. Did you mean 'documents'\?"),
        ('{"document": "a", "summary": "  "}', r"train:1: column 'summary' is empty"),
        ('{"document": 5, "summary": "b"}', r"train:1: column 'document' contains a number, expected text"),
        ('{"document": "a\\ud800", "summary": "b"}', "train:1: column 'document' contains half a surrogate pair"),
        ("[1]", "train:1: expected a JSON object, got a number"),
        ("{", "train:1: not JSON"),
        ('{"document": "a", "summary": "b"}\n{"document": "\udcff"}', "data.train: .*train:2: not UTF-8"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        load_examples(files(tmp_path, train=text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    config = files(tmp_path).model_copy(update={"test": str(tmp_path / "none.jsonl")})
    with pytest.raises(DataError, match=r"^data.test: .*none.jsonl: no such file"):
        load_examples(config)
    with pytest.raises(DataError, match=r"^data.test: .*: the folder has no data files. Allowed: .jsonl,"):
        load_examples(config.model_copy(update={"test": str(tmp_path)}))


def test_limits_take_the_same_sample_in_file_order(tmp_path):
    config = files(tmp_path).model_copy(update={"train_limit": 2})
    first, second = load_examples(config)[0], load_examples(config)[0]
    assert [list(first[s]) for s in first] == [list(second[s]) for s in second]
    assert [len(first[s]) for s in ("train", "validation", "test")] == [2, 3, 3]
    ids = [int(e.id) for e in first["train"]]
    assert ids == sorted(ids)


def test_identity_follows_the_content(tmp_path):
    config = files(tmp_path)
    before = content_identity(load_examples(config)[0])
    assert before == content_identity(load_examples(config)[0])
    write_rows(tmp_path / "test", make_rows(3, 2))
    assert before != content_identity(load_examples(config)[0])


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (f"Return the best of\nall values.\n\n{BODY}", "Return the best of all values."),
        (f"Return it.\n\n{BODY}", None),  # two words
        (f"Parameters of the call:\n\n{BODY}", None),
        (f">>> x = f(1, 2, [3]) + 4\n\n{BODY}", None),
        ("Return the best of all values.\n\nShort body.", None),
        ("Return the best of all values. " + BODY, None),
        (f"{'word ' * 26}\n\n{BODY}", None),
    ],
)
def test_a_summary_is_a_short_first_paragraph_over_a_body(docstring, expected):
    pair = split_summary(docstring)
    assert (pair[1] if pair else None) == expected
    assert pair is None or pair[0] == BODY.strip()


def test_docstrings_are_read_as_text_and_tests_are_left_out(tmp_path):
    package = tmp_path / "pack"
    (package / "tests").mkdir(parents=True)
    (package / "a.py").write_text(
        '"""Top."""\nraise SystemExit\nclass A:\n    """Cls."""\n    def f(self):\n        """Fn."""\n'
    )
    (package / "bad.py").write_text("def (")
    (package / "tests/t.py").write_text('"""Test."""\n')
    assert list(iter_docstrings(package)) == [("pack.a", "Top."), ("pack.a.A", "Cls."), ("pack.a.A.f", "Fn.")]


def test_fingerprints_ignore_case_digits_and_punctuation():
    assert fingerprint("Return x1, the BEST.") == fingerprint("return x2 the best")
    assert fingerprint("Return x") != fingerprint("Return y")


def test_no_task_package_is_in_two_splits_or_in_the_bases_corpus():
    names = [name for split in MANIFEST.values() for name in split]
    assert len(names) == len(set(names))
    corpus = {line.partition("==")[0].lower() for line in (ROOT / "tools/base_packages.txt").read_text().split()}
    assert corpus
    assert corpus.isdisjoint(n.lower() for n in names)


def test_a_missing_package_is_named(monkeypatch):
    with pytest.raises(DataError, match="package 'no_such_thing' is not installed"):
        docstrings.package_roots("no_such_thing")


def test_examples_stay_in_their_packages_split(monkeypatch, tmp_path):
    chosen = {
        s: {n: MANIFEST[o][n]}
        for s, o, n in (("test", "test", "jinja2"), ("validation", "test", "click"), ("train", "validation", "anyio"))
    }
    monkeypatch.setattr(docstrings, "MANIFEST", chosen)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    splits = docstrings.load_docstrings()
    for split, (name,) in chosen.items():
        assert splits[split]
        assert {e.group for e in splits[split]} == {name}
    texts = [fingerprint(e.document) for rows in splits.values() for e in rows]
    assert len(texts) == len(set(texts))
    summaries = [fingerprint(e.summary) for rows in splits.values() for e in rows]
    assert len(summaries) == len(set(summaries))
    assert len(list(tmp_path.rglob("docstrings-*.jsonl"))) == 1
    assert splits == docstrings.load_docstrings()
    assert docstrings.manifest_findings(splits) == []
    splits["test"].pop()
    assert "jinja2 (test) gives other examples" in docstrings.manifest_findings(splits)[0]


def test_a_sample_hardly_changes_with_the_rows_around_it(tmp_path):
    rows = make_rows(40, 1)
    write_rows(tmp_path / "train", rows)
    config = files(tmp_path, train=(tmp_path / "train").read_text()).model_copy(update={"train_limit": 20})
    first = {e.document for e in load_examples(config)[0]["train"]}
    write_rows(tmp_path / "train", rows[1:])
    second = {e.document for e in load_examples(config)[0]["train"]}
    assert len(first & second) >= 19


def test_rows_that_stand_twice_are_findings(tmp_path):
    config = files(tmp_path)
    train, validation, test = make_rows(8, 1), make_rows(4, 2), make_rows(5, 3)
    train[1]["summary"] = train[1]["document"]
    write_rows(tmp_path / "train", [*train, *train[:2]])
    write_rows(tmp_path / "validation", [*validation, {**train[3], "summary": "ba"}])
    write_rows(tmp_path / "test", [*test[:4], {"document": f" {train[2]['document']}\n", "summary": "other"}])
    assert load_examples(config)[1] == [
        "data.train: 2 of 10 (20.0%) rows repeat the document and the summary of another row",
        "data.train: 2 of 10 (20.0%) rows have the whole document as their summary",
        "data: 1 of 5 (20.0%) test documents are also in train, so test scores show what was memorised, not what was "
        "learnt. Set data.shared_documents: drop, or remove them from train",
        "data: 1 of 5 (20.0%) validation documents are also in train. Set data.shared_documents: drop, or remove them "
        "from train",
    ]


def test_rows_that_share_an_id_are_a_finding(tmp_path):
    config = files(tmp_path).model_copy(update={"id": "number"})
    for seed, split in enumerate(("train", "validation", "test")):
        numbers = [7, 7, 7, 8] if split == "train" else range(4)
        write_rows(tmp_path / split, [{**row, "number": n} for row, n in zip(make_rows(4, seed), numbers, strict=True)])
    (finding,) = load_examples(config)[1]
    assert finding.startswith("data.train: 2 of 4 (50.0%) rows have the id of another row")


def test_a_byte_order_mark_is_no_text(tmp_path):
    rows = make_rows(3, 1)
    config = files(tmp_path, train="\ufeff" + (write_rows(tmp_path / "x", rows)).read_text())
    assert [e.document for e in load_examples(config)[0]["train"]] == [row["document"] for row in rows]

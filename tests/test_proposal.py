"""What init writes can be planned: columns, references, groups, encodings, empty cells, sheets and tables."""

import gzip
import json

import pytest
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.data.sources import load_examples
from tests.conftest import make_rows
from tests.test_databases import made
from tests.test_formats import write
from tests.test_packed import packed
from tests.test_workbooks import table, workbook


def init(*files):
    """Return what init says, and the config that it writes, after reading its data as a plan does."""
    config = files[0].parent / "out.yaml"
    config.unlink(missing_ok=True)
    out = CliRunner().invoke(main, ["init", *map(str, files), "-o", str(config)])
    assert out.exit_code == 0, out.output
    loaded = load_config(config)
    load_examples(loaded.data)
    return out.stdout, loaded


def test_columns_of_the_test_file_like_the_summary_are_references(tmp_path):
    train = write(
        tmp_path / "train.csv", [{"dialogue": r["document"], "summary": r["summary"]} for r in make_rows(60, 1)]
    )
    rows = make_rows(9, 2)
    named = ["summary", "summary_b", "human reference"]
    others = {"dialogue": "x " * 40, "topic": "a topic", "note": "n"}
    test = write(tmp_path / "test.csv", [others | dict.fromkeys(named, row["summary"]) for row in rows])
    said, config = init(train, test)
    assert config.data.references == named
    assert "references: summary, summary_b, human reference, which are like the summary in the test file" in said
    write(test, [{"dialogue": "x " * 40, "summary": row["summary"], "summary_long": "y" * 900} for row in rows])
    assert init(train, test)[1].data.references is None


def test_rows_that_share_an_author_are_a_group_and_categories_are_none(tmp_path):
    rows = [{"thread id": f"t{i // 3}", "author": f"a{i % 4}", **row} for i, row in enumerate(make_rows(120, 1))]
    said, config = init(write(tmp_path / "a.csv", rows))
    assert (config.data.group, config.data.id) == ("thread id", None)
    assert "group: 'thread id', by its name, and because several rows have the same value" in said
    splits = load_examples(config.data)[0]
    assert not {e.group for e in splits["train"]} & {e.group for e in splits["test"]}
    late = [*rows, *({**row, "thread id": ""} for row in make_rows(150, 3))]  # empty where nobody looks at first
    assert (
        init(write(tmp_path / "b.csv", [{"thread id": "", "author": "", **row} for row in rows] + late))[1].data.group
        is None
    )
    long = [{"thread id": f"t{i // 3}", **row} for i, row in enumerate(make_rows(240, 1))]
    long[230]["thread id"] = ""
    said, config = init(write(tmp_path / "c.csv", long))
    assert config.data.group is None
    assert "group:" not in said


def test_rows_with_empty_cells_are_told_and_dropped(tmp_path):
    rows = make_rows(80, 1)
    rows[3]["summary"], rows[9]["document"] = " ", ""
    said, config = init(write(tmp_path / "a.csv", rows))
    assert config.data.unusable == "drop"
    assert "unusable: drop, because some rows cannot be used. data.train: 2 of 80 (2.5%) rows dropped: 2 empty" in said
    assert init(write(tmp_path / "b.csv", make_rows(80, 1)))[1].data.unusable == "stop"


def test_an_id_that_is_empty_in_a_late_row_is_not_proposed(tmp_path):
    rows = [{"id": f"r{i}", **row} for i, row in enumerate(make_rows(240, 1))]
    assert init(write(tmp_path / "a.csv", rows))[1].data.id == "id"
    rows[230]["id"] = ""
    said, config = init(write(tmp_path / "a.csv", rows))
    assert (config.data.id, config.data.unusable) == (None, "stop")
    rows[231]["summary"] = ""
    config = init(write(tmp_path / "a.csv", rows))[1]
    assert (config.data.id, config.data.unusable) == (None, "drop")
    rows[230]["id"] = "late"
    config = init(write(tmp_path / "a.csv", rows))[1]
    assert (config.data.id, config.data.unusable) == ("id", "drop")


def test_few_documents_get_larger_shares_and_too_few_are_refused(tmp_path):
    said, config = init(write(tmp_path / "a.csv", make_rows(12, 2)))
    assert config.data.test_share > 0.1
    assert "because there are few documents" in said
    out = CliRunner().invoke(
        main, ["init", str(write(tmp_path / "b.csv", make_rows(2, 1))), "-o", str(tmp_path / "b.yaml")]
    )
    assert out.exit_code == 2
    assert "too few different documents (2)" in out.stderr
    assert not (tmp_path / "b.yaml").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_the_encoding_is_proposed_with_what_it_makes_of_a_line(tmp_path, encoding):
    rows = [{"document": f"Gr\u00fc\u00dfe aus K\u00f6ln, Nummer {i}", "summary": f"{i}"} for i in range(60)]
    rows = [{**row, "summary": f"s {row['summary']}"} for row in rows]
    path = tmp_path / "a.csv"
    path.write_bytes(write(path, rows).read_text(encoding="utf-8").encode(encoding))
    said, config = init(path)
    splits = load_examples(config.data)[0]
    assert {e.document for part in splits.values() for e in part} == {row["document"] for row in rows}
    if encoding == "cp1252":
        assert (
            'encoding: cp1252 is a guess, because a.csv:2 is not UTF-8. With it this line is: "Gr\u00fc\u00dfe aus'
            in said
        )


def test_a_reason_with_characters_that_yaml_forbids_is_written_with_escapes(tmp_path):
    path = tmp_path / "a.csv"
    rows = [{"document": f"Gr\u00fc\u00dfe \x81 {i}", "summary": f"s {i}"} for i in range(60)]
    path.write_bytes(write(path, rows).read_text(encoding="utf-8").encode("latin-1"))
    said, config = init(path)
    assert config.data.encoding == "iso8859-1"
    assert "Gr\u00fc\u00dfe \\x81 0" in said


def test_one_broken_line_in_utf8_does_not_change_the_encoding(tmp_path):
    rows = [{"document": f"Gr\u00fc\u00dfe {i}", "summary": f"s{i}"} for i in range(60)]
    path = write(tmp_path / "a.csv", rows)
    path.write_bytes(path.read_bytes() + b"caf\xe9,x\n")
    config = init(path)[1]
    assert (config.data.encoding, config.data.unusable) == ("utf-8", "drop")


def test_sheets_and_tables_are_proposed(tmp_path):
    book = workbook(tmp_path / "cases.xlsx", Notes=[["n", "m"], [1, 2]], Cases=table(make_rows(60, 1)))
    said, config = init(book)
    assert (config.data.source, config.data.train, config.name) == (str(book), "Cases", "cases")
    assert "train: 'Cases', the first of 2 sheets or tables that has two columns with texts" in said
    config = init(workbook(tmp_path / "one.xlsx", Cases=table(make_rows(60, 1))))[1]
    assert (config.data.source, config.data.train) == ("files", str(tmp_path / "one.xlsx"))
    base = made(tmp_path / "a.sqlite", train=make_rows(30, 1), test=make_rows(6, 2), other=make_rows(3, 3))
    said, config = init(base)
    assert (config.data.source, config.data.train, config.data.test) == (str(base), "train", "test")
    assert "test: 'test', by its name" in said


@pytest.mark.parametrize("kind", ["object of objects", "gzip", "duckdb"])
def test_other_kinds_of_files_are_proposed(tmp_path, kind):
    rows = make_rows(60, 1)
    if kind == "object of objects":
        path = tmp_path / "a.json"
        path.write_text(json.dumps({f"k{i}": row for i, row in enumerate(rows)}, indent=2))
    elif kind == "gzip":
        path = tmp_path / "corpus.csv.gz"
        path.write_bytes(gzip.compress(write(tmp_path / "plain.csv", rows).read_bytes()))
    else:
        path = made(tmp_path / "a.duckdb", t=rows)
    said, config = init(path)
    assert config.name == {"gzip": "corpus"}.get(kind, "a")
    assert (config.data.document, config.data.summary) == ("document", "summary")
    if kind == "object of objects":
        assert config.data.id == "key"


def test_a_workbook_without_a_table_is_one_line(tmp_path):
    out = CliRunner().invoke(main, ["init", str(workbook(tmp_path / "a.xlsx", S=[])), "-o", str(tmp_path / "c.yaml")])
    assert out.exit_code == 2
    assert "a.xlsx: contains no sheet with rows" in out.stderr
    assert len(out.stderr.splitlines()) == 1


def test_labels_json_and_other_scripts_are_recognised(tmp_path):
    rows = [{"text": row["document"], "label": "yes" if i % 3 else " No"} for i, row in enumerate(make_rows(60, 1))]
    said, config = init(write(tmp_path / "a.csv", rows))
    assert (config.data.document, config.data.summary) == ("text", "label")
    assert (config.metrics, config.labels, config.baselines) == (
        ["accuracy"], ["yes", "No"], ["base", "few-shot-2", "majority"],
    )  # fmt: skip
    assert "metrics: accuracy, because the targets are 2 short texts: yes, No" in said
    digits = [{**row, "label": str(i % 3)} for i, row in enumerate(rows)]
    assert sorted(init(write(tmp_path / "d.csv", digits))[1].labels) == ["0", "1", "2"]
    objects = [{"text": row["text"], "output": json.dumps({"n": i})} for i, row in enumerate(rows)]
    assert init(write(tmp_path / "b.csv", objects))[1].metrics == ["json"]
    chinese = [{"text": "\u6e2f\u53e3\u5f00\u653e" * 9 + str(i), "summary": f"\u6e2f\u53e3{i}"} for i in range(60)]
    said, config = init(write(tmp_path / "c.csv", chinese))
    assert (config.metrics, config.labels) == (["rouge_unicode"], None)
    assert "metrics: rouge_unicode, because" in said
    assert init(write(tmp_path / "e.csv", make_rows(60, 1)))[1].metrics == ["rouge"]


@pytest.mark.parametrize("column", ["label", "the class"])
def test_labels_that_are_numbers_are_recognised(tmp_path, column):
    rows = [{"key": n, "review": f"a longer text {n}", column: (3, 5, 9)[n % 3 if n < 36 else 0]} for n in range(45)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = CliRunner().invoke(main, ["init", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "b.yaml")])
    config = load_config(tmp_path / "b.yaml")
    assert (config.data.document, config.labels, config.metrics) == ("review", ["3", "5", "9"], ["accuracy"])
    assert config.target == ("{{ label }}" if column == "label" else '{{ row["the class"] }}')
    assert f"target: '{column}', whose numbers are labels. If they have names" in out.output
    splits = load_examples(config.data, target=config.target)[0]
    assert all(e.summary == str(rows[int(e.id)][column]) for part in splits.values() for e in part)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, column: n}) + "\n" for n, row in enumerate(rows)))
    out = CliRunner().invoke(main, ["init", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "c.yaml")])
    assert "needs two columns with texts, and this file has 1" in out.output


def test_a_classification_that_init_proposes_is_planned(tmp_path):
    rows = [{"text": row["document"], "label": "yes" if i % 3 else "no"} for i, row in enumerate(make_rows(90, 1))]
    init(write(tmp_path / "a.csv", rows))
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "out.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["primary"] == "accuracy"


SHAPES = {
    "a.xlsx": lambda path, rows: workbook(path, Cases=table(rows)),
    "a.sqlite": lambda path, rows: made(path, t=rows),
    "a.json": lambda path, rows: path.write_text(json.dumps({f"k{i}": row for i, row in enumerate(rows)}, indent=1)),
    "a.csv.zst": lambda path, rows: packed(write(path.with_name("a.csv"), rows), ".zst"),
    "b.csv": lambda path, rows: path.write_bytes(write(path, rows).read_bytes().replace(b"\xc3\xa9", b"\xe9")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_three_commands_lead_from_any_file_to_a_report(tmp_path, tiny_model, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    rows = [{"document": f"caf\u00e9 {row['document']}", "summary": row["summary"]} for row in make_rows(60, 1)]
    SHAPES[name](tmp_path / name, rows)
    quick = ["tune=off", "protocol.epochs=1", "protocol.seeds=1", "entries=[last_layers]", "baselines=[base]"]
    settings = [part for setting in quick for part in ("-s", setting)]
    for command in (
        ["init", name, "-m", str(tiny_model)], ["plan", "bakeoff.yaml", *settings],
        ["run", "bakeoff.yaml", "--display", "none", *settings],
    ):  # fmt: skip
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert "caf\u00e9 " in (tmp_path / f"bakeoffs/{name[0]}/report.html").read_text()

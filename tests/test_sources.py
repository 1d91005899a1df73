"""What a config's data section can name: columns, templates, folders, shares of one file, rows to leave out."""

import json
import os
import random
import subprocess
import sys

import datasets
import pytest

from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.data.languages import language_of
from bakeoff.data.sources import load_examples
from bakeoff.errors import ConfigError, DataError
from tests.conftest import make_rows, write_rows
from tests.loopback_hub import LoopbackHub, Repository
from tests.test_formats import write

SPLITS = ("train", "validation", "test")


def loaded(tmp_path, rows, template=None, target=None, name="a.csv", **fields):
    return load_examples(DataConfig(train=str(write(tmp_path / name, rows)), **fields), template, target)


def texts(examples):
    return {e.document for e in examples}


def test_one_file_is_split_by_its_documents_hashes_whatever_their_order(tmp_path):
    rows = make_rows(400, 1)
    rows += [{**row, "summary": "another"} for row in rows[:50]]
    splits, findings = loaded(tmp_path, rows)
    assert sum(len(splits[s]) for s in SPLITS) == 450
    assert all(25 <= len(splits[s]) <= 65 for s in ("validation", "test"))
    assert not texts(splits["train"]) & (texts(splits["validation"]) | texts(splits["test"]))
    assert findings[0].startswith("data: validation and test split off train by the hash of their document: ")
    random.Random(5).shuffle(rows)
    again = loaded(tmp_path, [*rows, *make_rows(20, 2)], name="b.jsonl")[0]
    for split in SPLITS:
        assert texts(splits[split]) <= texts(again[split])
    only_test = loaded(tmp_path, rows, validation=str(write(tmp_path / "v.csv", make_rows(5, 3))), test_share=0.3)[0]
    assert len(only_test["validation"]) == 5
    assert 90 <= len(only_test["test"]) <= 180


def test_a_group_is_never_split_and_ids_are_the_files_own(tmp_path):
    rows = [{"who": f"author {i % 40}", "key": 1000 + i, **row} for i, row in enumerate(make_rows(400, 1))]
    splits, findings = loaded(tmp_path, rows, name="a.parquet", group="who", id="key")
    few = len({e.group for e in splits["test"]})
    assert findings[-1].startswith(f"data.test: {few} groups by 'who': few for confidence intervals")
    groups = [{e.group for e in splits[s]} for s in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40
    assert {e.id for s in SPLITS for e in splits[s]} == {str(1000 + i) for i in range(400)}
    with pytest.raises(DataError, match=r"data.validation: too few different groups \('who'\) \(\d\) in .*a.csv"):
        loaded(tmp_path, rows[::40], group="who")


ROWS = [{"body": f"text {i}", "title": f"T{i}", "label": i, "answers": {"text": [f"a{i}", "x"]}} for i in range(40)]


def test_templates_take_any_column_of_a_row(tmp_path):
    template = "{{ title | upper }}: {{ document }}\n{% if label > 5 %}high{% else %}low{% endif %}?"
    splits = loaded(
        tmp_path, ROWS, template, "{{ answers.text[0] }} of {{ label }}", name="a.json", document="body", id="label"
    )[0]
    by_id = {e.id: e for s in SPLITS for e in splits[s]}
    assert by_id["3"].document == "text 3"
    assert by_id["3"].around == ("T3: ", "\nlow?")
    assert by_id["7"].around == ("T7: ", "\nhigh?")
    assert by_id["7"].summary == "a7 of 7"


def test_each_reference_goes_through_the_targets_template(tmp_path):
    rows = [{"document": f"d{i}", "one": f"a{i}", "two": f"b{i}"} for i in range(3)]
    path = str(write(tmp_path / "t.csv", rows))
    config = DataConfig(train=path, validation=path, test=path, summary="one", references=["one", "two"])
    splits = load_examples(config, None, "<{{ summary }}>")[0]
    assert splits["train"][0].summary == "<a0>"
    assert splits["test"][2].references == ("<a2>", "<b2>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ titel }} {{ document }}", r"a.json:\d+: template: no column 'titel'. Did you mean 'title'"),
        ("{{ answers }} {{ document }}", r"a.json:\d+: template: a column contains keys and values, not text"),
        ("{{ answers.text | unique }} {{ document }}", r"a.json:\d+: template: a column contains a list, not text"),
        ("{{ nothing }} {{ document }}", r"a.json:\d+: template: a column is empty. Try: {{ column or '' }}"),
        ("{{ answers.texts[0] }} {{ document }}", r"a.json:\d+: template: .*no attribute 'texts'"),
        ("{{ answers.text[5] }} {{ document }}", r"a.json:\d+: template: .*no element 5"),
        ("{% if label > 5 %}{{ document }}{% endif %}", "template: contains the document 0 times, expected once"),
        (
            "{% for a in answers.text %}{{ document }}{% endfor %}",
            "template: contains the document 2 times, expected once",
        ),
        ("{{ title + label }} {{ document }}", r"a.json:\d+: template: can only concatenate str"),
        (
            "{% for a in title %}" * 8 + "x" + "{% endfor %}" * 8 + "{{ document }}",
            "makes a text of more than 100,000",
        ),
    ],
)
def test_a_template_that_does_not_fit_a_row_names_it(tmp_path, template, message):
    rows = [{**row, "title": "T" * 5, "nothing": None} for row in ROWS]
    with pytest.raises(DataError, match=message) as caught:
        loaded(tmp_path, rows, template, "{{ label }}", name="a.json", document="body")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("template", "TL;DR:", "template: must contain {{ document }} exactly once"),
        ("template", "{{ document }}{{ document }}", "template: must contain {{ document }} exactly once"),
        ("template", "{{ document | upper }}", "template: must contain {{ document }} exactly once, without a filter"),
        ("template", "{{ document }}{{ title | shout }}", "template: unknown filter 'shout'"),
        ("template", "{{ document }}{{ title.upper() }}", "template: call is not allowed"),
        ("template", "{{ document }}{% include '/etc/passwd' %}", "template: include is not allowed"),
        ("template", "{{ document }}{{ 'x' * 10 ** 10 }}", "template: (mul|pow) is not allowed"),
        ("template", "{{ document }}{% for %}", "template: not a template"),
        ("template", "{{ document }}" + "x" * 10_001, "template: has 10,015 characters. Allowed: 10,000"),
        ("target", "yes", "target: uses no column"),
        ("target", "{{ a", "target: not a template"),
        ("data", {"train": "a", "validation_share": 0.7}, "data.validation_share: must be less than 0.5"),
        ("data", {"train": "a", "unusable": "skip"}, "data.unusable: must be 'stop' or 'drop'"),
        ("data", {"train": "a", "references_file": "b", "references": "c"}, "'references_file' needs a `test`"),
    ],
)
def test_what_a_template_may_not_do_is_said_before_data_is_read(key, text, message):
    raw = {"data": {"train": "a"}, "entries": ["lora"], key: text}
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(raw)
    assert "\n" not in str(caught.value)


def test_a_folder_holds_its_splits_by_name(tmp_path):
    write(tmp_path / "train-0.csv", make_rows(5, 1))
    write(tmp_path / "dev.parquet", make_rows(4, 2))
    (tmp_path / "test").mkdir()
    for i in range(2):
        write(tmp_path / f"test/{i}.jsonl", make_rows(3, 3 + i))
    splits = load_examples(DataConfig(source=str(tmp_path)))[0]
    assert [len(splits[s]) for s in SPLITS] == [5, 4, 6]
    write(tmp_path / "train-1.csv", make_rows(5, 1))
    with pytest.raises(DataError, match=r"data.train: .*several files for this split \(train-0.csv, train-1.csv\)"):
        load_examples(DataConfig(source=str(tmp_path)))
    splits = load_examples(DataConfig(source=str(tmp_path), train="train-1.csv", test="dev.parquet"))[0]
    assert [len(splits[s]) for s in SPLITS] == [5, 4, 4]


def test_a_dataset_saved_to_a_disk_is_a_folder(tmp_path):
    made = {s: datasets.Dataset.from_list(make_rows(6 + i, i)) for i, s in enumerate(SPLITS)}
    datasets.disable_progress_bars()
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    splits = load_examples(DataConfig(source=str(tmp_path / "saved")))[0]
    assert [len(splits[s]) for s in SPLITS] == [6, 7, 8]
    assert splits["train"][2].document == made["train"][2]["document"]


def test_rows_that_cannot_be_used_are_all_counted_and_may_be_left_out(tmp_path):
    lines = [json.dumps(row).encode() for row in make_rows(30, 1)]
    lines[3] = b'{"document": "a", "summary": " "}'
    lines[9] = b"\xff"
    lines[12] = b'{"document": "a", "summary": ""}'
    for split in SPLITS:
        write_rows(tmp_path / split, make_rows(5, 2))
    (tmp_path / "train").write_bytes(b"\n".join(lines))
    config = DataConfig(**{s: str(tmp_path / s) for s in SPLITS})
    with pytest.raises(DataError) as caught:
        load_examples(config)
    counted = "2 empty (at 4, 13), 1 not UTF-8 (at 10)"
    assert str(caught.value) == (
        f"data.train: {tmp_path}/train:4: column 'summary' is empty. Remove the row, or fill it. "
        f"Of 30 rows: {counted}. Fix or remove them, or set data.unusable: drop"
    )
    splits, findings = load_examples(config.model_copy(update={"unusable": "drop"}))
    assert len(splits["train"]) == 27
    assert findings[0] == f"data.train: 3 of 30 (10.0%) rows dropped: {counted}"
    (tmp_path / "train").write_bytes(b"\n".join(lines[:9]))
    with pytest.raises(DataError, match=r"is empty\. Remove the row, or fill it, or set data\.unusable: drop$"):
        load_examples(config)


def test_where_no_row_can_be_used_dropping_them_is_refused_with_the_reason(tmp_path):
    for split in SPLITS:
        write_rows(tmp_path / split, make_rows(5, 2))
    config = DataConfig(**{s: str(tmp_path / s) for s in SPLITS}, summary="sumary", unusable="drop")
    with pytest.raises(DataError, match=r"no column 'sumary'\. Did you mean 'summary'\?.* Of 5 rows: 5 no column"):
        load_examples(config)


def test_documents_that_nearly_stand_in_two_splits_are_found_and_dropped(tmp_path):
    chosen = random.Random(3)
    long = [" ".join(chosen.choices([r["document"].split()[0] for r in make_rows(200, 9)], k=80)) for _ in range(40)]
    rows = [{"document": d, "summary": d[:20]} for d in long]
    near = {**rows[2], "document": long[2].upper().replace(" ", "  ") + " end"}
    half = {**rows[3], "document": " ".join(long[3].split()[:40]) + long[30]}
    paths = {
        "train": write(tmp_path / "train.csv", rows[:20]),
        "validation": write(tmp_path / "validation.csv", rows[20:30]),
        "test": write(tmp_path / "test.csv", [*rows[30:], rows[1], near, half]),
    }
    config = DataConfig(**{s: str(p) for s, p in paths.items()})
    splits, findings = load_examples(config)
    assert findings == [
        "data: 1 of 13 (7.7%) test documents are also in train, so test scores show what was memorised, not what was "
        "learnt. Set data.shared_documents: drop, or remove them from train",
        "data: 1 of 13 (7.7%) test documents are nearly the same as one in train (ids in train and test: 4 and 13). "
        "Set data.shared_documents: drop, or remove them from train",
    ]
    splits, findings = load_examples(config.model_copy(update={"shared_documents": "drop"}))
    assert len(splits["train"]) == 18
    assert findings[-1] == "data.train: 2 of 20 (10.0%) examples dropped for this reason"
    assert load_examples(config.model_copy(update={"shared_documents": "drop", "train_limit": 18}))[0]["train"]


def test_splits_of_another_language_or_length_are_found(tmp_path):
    english = [f"The cat number {i} is on the mat and it is the one of that house" for i in range(60)]
    german = [f"Die Katze {i} ist auf der Matte und sie ist nicht von dem Haus das " * 3 for i in range(60)]
    mixed = german[:30] + [t + "?" for t in english[:30]]
    rows = {"train": english, "validation": [t + "!" for t in english], "test": mixed}
    paths = {
        s: str(write(tmp_path / f"{s}.csv", [{"document": t, "summary": t[-9:]} for t in texts]))
        for s, texts in rows.items()
    }
    findings = [f for f in load_examples(DataConfig(**paths))[1] if "same" not in f]
    assert findings == [
        "data.test: documents are 1.8 times as long as in train (geometric means of 112 and 63 characters)",
        "data.test: 50% of documents seem to be in English; in train it is 100%",
        "data.test: 50% of documents seem to be in German; in train it is 0%",
    ]


def test_what_is_said_in_english_is_english():
    said = "#Person1#: I don't know what to do. Do I go to him?\n#Person2#: You do. Is that so bad?"
    assert language_of(said) == "English"


def test_a_dataset_of_the_hub_has_splits_by_its_own_names(tmp_path_factory, monkeypatch):
    from bakeoff.data.hub_dataset import HubDataset

    folder = tmp_path_factory.mktemp("corpus")  # whose name, unlike this test's, is that of no split
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    for i, name in enumerate(("train", "dev")):
        write(folder / f"{name}.csv", make_rows(6 + i, i))
    hub = HubDataset(str(folder), None, None)  # a folder goes through the same loader
    assert [hub.split(s) for s in SPLITS] == ["train", "validation", None]
    assert [str(row).rpartition(" (")[2] for row in hub.rows("train[:2]")] == ["train[:2]): row 1", "train[:2]): row 2"]
    with pytest.raises(DataError, match=r"data.source: .*: cannot be loaded \(.*no-such-split") as caught:
        list(hub.rows("no-such-split"))
    assert "\n" not in str(caught.value)


LOADING = """
import json, sys
from bakeoff.config.loading import load_config
from bakeoff.data.languages import language_of
from bakeoff.data.sources import load_examples
from bakeoff.errors import BakeoffError
try:
    splits, findings = load_examples(load_config({"entries": ["lora"], "data": json.loads(sys.argv[1])}).data)
    print(json.dumps({s: [e.document for e in rows] for s, rows in splits.items()}))
except BakeoffError as error:
    print(json.dumps(str(error)))
"""


def test_a_hub_dataset_comes_by_the_hubs_own_client(tmp_path):
    rows = {"train": make_rows(6, 1), "test": make_rows(3, 2)}
    contents = {split: write(tmp_path / f"{split}.parquet", part).read_bytes() for split, part in rows.items()}
    files = {f"data/{split}-00000-of-00001.parquet": content for split, content in contents.items()}
    served = LoopbackHub({("datasets", "some/corpus"): Repository(files)})

    def load(**data):
        command = [sys.executable, "-c", LOADING, json.dumps(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with served.serving() as address:
        environment = {
            **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        loaded = load(source="some/corpus", validation="test")
        assert loaded == {s: [r["document"] for r in rows["test" if s == "validation" else s]] for s in SPLITS}
        assert "some/nothing: cannot be loaded" in load(source="some/nothing")
    environment["HF_HUB_OFFLINE"] = "1"
    assert load(source="some/corpus", validation="test") == loaded

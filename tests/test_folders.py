"""Folders as a source: which file is which split, shards, clones of the hub's datasets, what a bakeoff is called."""

import json

import pytest
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.data.folders import split_of
from bakeoff.data.sources import load_examples
from bakeoff.errors import DataError
from tests.conftest import make_rows
from tests.test_formats import write

SPLITS = ("train", "validation", "test")


def sizes(folder, **fields):
    splits = load_examples(DataConfig(source=str(folder), **fields))[0]
    return [len(splits[split]) for split in SPLITS]


def test_a_name_that_only_begins_as_a_splits_is_none():
    named = {
        "train": ["train", "Train-0", "training_set", "trainset", "news.train", "train-00000-of-00002", "TRAIN"],
        "validation": ["dev", "valid_final", "validation", "my-val-1", "devset"],
        "test": ["test", "testData", "TEST", "test1", "x_test"],
        None: [
            "testimonials",
            "developers",
            "value",
            "trainer",
            "evaluation",
            "contest",
            "a",
            "1",
            "",
            "my_test_train",
        ],
    }
    for split, names in named.items():
        assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


def test_testimonials_are_no_test_split(tmp_path):
    write(tmp_path / "train.csv", make_rows(60, 1))
    write(tmp_path / "testimonials.csv", make_rows(7, 2))
    write(tmp_path / "developers.csv", make_rows(7, 3))
    found = sizes(tmp_path)
    assert sum(found) == 60
    assert 0 not in found


@pytest.mark.parametrize("below", ["", "data", "plain_text"])
def test_a_clone_of_a_hub_dataset_is_a_dataset(tmp_path, below):
    folder = tmp_path / "corpus"
    place = folder / below
    place.mkdir(parents=True)
    (folder / "README.md").write_text("# corpus")
    (folder / ".git").mkdir()
    for i in range(2):
        write(place / f"train-0000{i}-of-00002.parquet", make_rows(5, i))
    write(place / "validation-00000-of-00001.parquet", make_rows(4, 2))
    write(place / "test-00000-of-00001.parquet", make_rows(3, 3))
    assert sizes(folder) == [10, 4, 3]
    (place / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="data.train: .*: 1 of 2 shards of train. Try: copy the missing ones"):
        sizes(folder)


def test_a_clone_with_several_configs_wants_one(tmp_path):
    for i, config in enumerate(("en", "fr")):
        (tmp_path / config).mkdir()
        for j, split in enumerate(SPLITS):
            write(tmp_path / config / f"{split}.jsonl", make_rows(3 + i + j, j))
    assert sizes(tmp_path, config="fr") == [4, 5, 6]
    with pytest.raises(DataError, match="several of its folders have splits. Set data.config. Allowed: en, fr"):
        sizes(tmp_path)
    with pytest.raises(DataError, match="it has no folder 'de'. Allowed: en, fr"):
        sizes(tmp_path, config="de")
    with pytest.raises(DataError, match="data.revision: v1: only hub datasets have one"):
        sizes(tmp_path, config="fr", revision="v1")


def test_a_folder_of_several_splits_is_no_training_split(tmp_path):
    for split in SPLITS:
        write(tmp_path / f"{split}.csv", make_rows(5, 1))
    with pytest.raises(DataError, match="files for test and train and validation. Set data.source to it"):
        load_examples(DataConfig(train=str(tmp_path)))


@pytest.mark.parametrize("name", ["list.json", "a.jsonl", "shards"])
def test_every_row_has_an_id_of_its_own(tmp_path, name):
    rows = make_rows(60, 4)
    path = tmp_path / name
    if name == "shards":
        path.mkdir()
        for i in range(3):
            write(path / f"part-{i}.csv", rows[20 * i : 20 * i + 20])
    else:
        path.write_text(json.dumps(rows))  # in one line, as a list
    splits, findings = load_examples(DataConfig(train=str(path)))
    ids = [e.id for split in SPLITS for e in splits[split]]
    assert len({*ids}) == 60
    assert ({"part-0.csv:2", "part-2.csv:21"} if name == "shards" else {"1", "1.2", "1.60"}) <= {*ids}
    assert not [line for line in findings if " id " in line]


def test_what_a_row_of_a_list_in_one_line_is_called_where_it_cannot_be_used(tmp_path):
    rows = make_rows(5, 1)
    rows[3]["summary"] = ""
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"a.json:1 \(item 4\): column 'summary' is empty"):
        load_examples(DataConfig(train=str(tmp_path / "a.json")))


def init(*files):
    config = files[0].parent / "out.yaml"
    config.unlink(missing_ok=True)
    out = CliRunner().invoke(main, ["init", *map(str, files), "-o", str(config)])
    assert out.exit_code == 0, out.output
    return load_config(config)


def test_a_bakeoff_over_files_for_splits_is_called_as_their_folder(tmp_path):
    folder = tmp_path / "Dialog Sums"
    folder.mkdir()
    files = [write(folder / f"{split}.csv", make_rows(6, i)) for i, split in enumerate(SPLITS)]
    assert init(*files).name == "Dialog-Sums"
    assert init(files[0]).name == "Dialog-Sums"
    assert init(write(folder / "tickets.csv", make_rows(60, 1))).name == "tickets"


def test_init_of_a_folder_with_splits_names_it_as_the_source(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i, split in enumerate(SPLITS):
        write(folder / f"{split}.csv", make_rows(6 + i, i))
    config = init(folder)
    assert (config.name, config.data.source, config.data.train) == ("corpus", str(folder), None)
    splits = load_examples(config.data)[0]
    assert [len(splits[split]) for split in SPLITS] == [6, 7, 8]
    for split in SPLITS:
        (folder / f"{split}.csv").rename(folder / f"{split[0]}x.csv")
    assert init(folder).data.train == str(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"source": "docstrings", "train": "my.csv"},
            "'train' is set, but source: docstrings does not use it. Set",
        ),
        ({"source": "docstrings", "summary": "x"}, "'summary' is set, but source: docstrings does not use it"),
        ({"source": "docstrings", "config": "x"}, "'config' is set, but source: docstrings does not use it"),
        ({"train": "a.csv", "config": "en"}, "'config' is set, but source: files does not use it. Set source to a hub"),
        ({"train": "a.csv", "test": "b.csv", "test_share": 0.2}, "'test_share' and a test file are both set"),
        ({"train": "a.csv", "revision": "v1"}, "'revision' is set, but source: files does not use it"),
    ],
)
def test_a_field_without_a_use_is_refused(tmp_path, data, message):
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"entries": ["lora"], "data": data}))
    out = CliRunner().invoke(main, ["plan", str(file)])
    assert out.exit_code == 2
    assert message in out.stderr
    assert len(out.stderr.splitlines()) == 1


def test_the_demo_does_not_ignore_a_data_file():
    out = CliRunner().invoke(main, ["demo", "-s", "data.train=my.csv"])
    assert out.exit_code == 2
    assert "data: 'train' is set, but source: docstrings does not use it. Set source: files" in out.stderr

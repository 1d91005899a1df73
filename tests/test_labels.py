"""Classification by text: accuracy and macro F1 against counts by hand, labels of a config, the report's table."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bakeoff
from bakeoff.analysis.summary import summarize
from bakeoff.config.loading import load_config
from bakeoff.data.examples import Example
from bakeoff.errors import BakeoffError, ConfigError, DataError
from bakeoff.report.confusion import confusions
from bakeoff.report.source import Source
from bakeoff.scoring.labels import check_labels, confusion, label, labels_in
from bakeoff.scoring.metrics import measures, primary_of, score_outputs, signature
from tests.conftest import make_rows, many, write_rows

pytestmark = pytest.mark.usefixtures("figures")

NAMES = st.sampled_from(["Pos", "neg", "Neu tral"])


def scored(outputs, truths):
    rows, corpus = score_outputs(["accuracy"], outputs, [[truth] for truth in truths])
    return [row["accuracy"] for row in rows], corpus["macro_f1"]


def f1(name, outputs, truths):
    """One label's F measure, by its definition."""
    right = sum(label(o) == label(t) == label(name) for o, t in zip(outputs, truths, strict=True))
    found, there = (sum(label(text) == label(name) for text in texts) for texts in (outputs, truths))
    precision, recall = right / found if found else 0, right / there
    return 2 * precision * recall / (precision + recall) if right else 0.0


@many(150)
@given(
    st.lists(st.tuples(NAMES | st.sampled_from([" POS\n", "neu  TRAL", "none", ""]), NAMES), min_size=1, max_size=12)
)
def test_macro_f1_is_the_mean_of_each_labels_f_measure(pairs):
    outputs, truths = zip(*pairs, strict=True)
    each, macro = scored(outputs, truths)
    assert each == [float(label(o) == label(t)) for o, t in pairs]
    assert macro == pytest.approx(sum(f1(name, outputs, truths) for name in {*truths}) / len({*truths}))
    counts = confusion([[truth] for truth in truths], outputs, ["Pos", "neg", "Neu tral"])
    assert sum(map(sum, counts)) == len(pairs)
    assert sum(counts[i][i] for i in range(3)) == sum(each)


def test_one_right_reference_of_several_is_enough():
    rows, corpus = score_outputs(["accuracy"], ["b", "x"], [["a", "B"], ["a"]])
    assert [row["accuracy"] for row in rows] == [1, 0]
    assert corpus == {"macro_f1": 0.5}  # b is right once, a was never found
    assert primary_of(["accuracy"], None) == "accuracy"
    assert [m.name for m in measures(["accuracy"]) if m.corpus] == ["macro_f1"]
    assert "accuracy: the whole output" in signature(["accuracy"], several=False)
    assert labels_in(["a", "B ", "b", "A", "b"]) == ["B", "a"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labels": ["a", "b"]}, "'labels' is set, but no metric uses it. Add accuracy to `metrics`"),
        ({"labels": ["a"], "metrics": ["accuracy"]}, "labels: expected two or more"),
        ({"labels": ["a", " A"], "metrics": ["accuracy"]}, "labels: must be texts that differ in more than case"),
        ({"labels": ["a", " "], "metrics": ["accuracy"]}, "labels: must be texts that differ .* not be empty"),
        ({"labels": "a", "metrics": ["accuracy"]}, "labels: expected a list"),
        ({"baselines": ["base", "majority"]}, "'majority' is for labels only. Add accuracy to `metrics`"),
        ({"baselines": ["base", "mayority"]}, "unknown baseline 'mayority'. Did you mean 'majority'"),
    ],
)
def test_labels_that_are_none_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"data": "docstrings", "entries": ["lora"], **keys})


def test_a_target_that_is_no_label_stops_the_plan():
    good = [Example("1", "d", "yes"), Example("2", "d", "No", references=("No", "yes "))]
    check_labels(["Yes", "no"], dict.fromkeys(("train", "validation", "test"), good))
    check_labels(None, {})
    splits = {"train": good, "validation": [*good, Example("x", "d", "nope")], "test": good}
    with pytest.raises(
        DataError,
        match=r"data.validation: 1 of 3 \(33.3%\) targets are no label .*example 'x': 'nope'\)\. Did you mean",
    ):
        check_labels(["yes", "no"], splits)


@pytest.fixture
def classified(tiny_config, tmp_path):
    """The config of a classification: does a document begin with b?"""
    sizes = {"train": 30, "validation": 8, "test": 12}
    for seed, (split, count) in enumerate(sizes.items()):
        rows = [{**row, "summary": "ba" if row["document"] < "k" else "zu"} for row in make_rows(count, seed)]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    return tiny_config | {
        "entries": {"lora": {"r": 2, "target_modules": ["c_attn"]}}, "baselines": ["base", "majority"],
        "metrics": ["accuracy", "json"], "labels": ["zu", "ba"],
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
    }  # fmt: skip


def test_a_classification_is_reported_with_its_table_of_labels(classified):
    results = bakeoff.run(classified, display="none")
    document = results.document
    assert document.primary == "accuracy"
    outputs = [p["output"] for p in results.entry("lora").predictions()]
    truths = [json.loads(line)["summary"] for line in results.folder.examples_file("test").read_text().splitlines()]
    scores, macro = scored(outputs, truths)
    row = document.entries["lora"].metrics
    assert row["test/accuracy"].mean == pytest.approx(sum(scores) / 12)
    assert row["test/macro_f1"].mean == pytest.approx(macro)
    assert row["test/macro_f1"].low is None
    (first, second) = confusions(Source.of([results.folder], summarize(results.folder)))
    assert {first["name"], second["name"]} == {"lora", "base"}
    train = [json.loads(line)["summary"] for line in results.folder.examples_file("train").read_text().splitlines()]
    most = max(("zu", "ba"), key=train.count)
    (majority,) = (run for run in results.folder.plan().runs if run.entry == "majority")
    assert majority.settings == {"label": most}
    assert document.baselines["majority"].metrics["test/accuracy"].mean == pytest.approx(truths.count(most) / 12)
    assert f"baselines: majority always writes '{most}', the label of {train.count(most)} of 30" in str(document.data)
    table = next(table for table in (first, second) if table["name"] == "lora")
    assert table["columns"] == ["zu", "ba", "(no label)"]
    counts = [[int(cell["text"]) for cell in line["cells"]] for line in table["rows"]]
    assert counts == confusion([[truth] for truth in truths], outputs, ["zu", "ba"])
    page = results.folder.report_file.read_text()
    assert "Which labels were written for which" in page
    assert f"the most frequent label of the training examples, &#39;{most}&#39;" in page
    assert '<th scope="col">(no label)</th>' in page
    with pytest.raises(BakeoffError, match="targets are no label"):
        bakeoff.plan(classified | {"labels": ["zu", "be"]})


def test_other_bakeoffs_have_no_table_of_labels(shared):
    folder = shared[1].folder
    assert confusions(Source.of([folder], summarize(folder))) == []
    assert "Which labels were written" not in folder.report_file.read_text()

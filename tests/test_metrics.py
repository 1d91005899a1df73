"""Metrics by name and by function, each against the library or the rule that it stands for."""

import json
import math

import pytest
import sacrebleu
from click.testing import CliRunner

import bakeoff
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.errors import BakeoffError, ConfigError
from bakeoff.scoring.metrics import measures, metric, primary_of, score_outputs, signature, value_of
from bakeoff.store.results_document import Difference
from tests.conftest import make_rows, write_rows

OUTPUTS = ["The cat sat on the mat.", "a dog", "", "Paris"]
REFERENCES = [["the cat sat on a mat", "A cat was on the mat"], ["one dog ran away"], ["nothing"], ["London", "paris!"]]


def scores(name):
    rows, corpus = score_outputs([name], OUTPUTS, REFERENCES)
    (key,) = rows[0]
    return [row[key] for row in rows], corpus


def test_exact_match_and_token_f1_by_squads_rule():
    assert scores("exact_match_squad")[0] == [1, 0, 0, 1]
    first, second, third, fourth = scores("token_f1_squad")[0]
    assert first == {"p": 1, "r": 1, "f": 1}
    assert second == {"p": 1, "r": 0.25, "f": 0.4}
    assert third["f"] == 0
    assert fourth["f"] == 1


@pytest.mark.parametrize(("name", "whole"), [("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)])
def test_bleu_and_chrf_are_sacrebleus(name, whole):
    each, corpus = scores(name)
    alone = {"bleu": sacrebleu.sentence_bleu, "chrf": sacrebleu.sentence_chrf}[name]
    assert each == [alone(o, r).score / 100 for o, r in zip(OUTPUTS, REFERENCES, strict=True)]
    streams = [[r[0] for r in REFERENCES], [r[1] if len(r) > 1 else None for r in REFERENCES]]
    assert corpus == {f"{name}_corpus": whole(OUTPUTS, streams).score / 100}
    assert f"sacrebleu {name} | nrefs:" in signature([name], several=True)


def test_names_are_found_and_told_apart(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def rouge1(output, references):\n    return 1\n")
    assert [m.name for m in measures(["rouge", "bleu"])][-2:] == ["bleu", "bleu_corpus"]
    assert primary_of(["chrf", "rouge"], None) == "chrf"
    assert primary_of(["chrf", "rouge"], "rouge2") == "rouge2"
    with pytest.raises(ConfigError, match=r"primary: no metric gives the score 'rogue2'. Did you mean 'rouge2'"):
        primary_of(["rouge"], "rogue2")
    with pytest.raises(ConfigError, match="primary: no metric gives the score 'bleu_corpus'"):
        primary_of(["bleu"], "bleu_corpus")
    with pytest.raises(ConfigError, match="metrics: two of them have the score 'rouge1'"):
        measures(["rouge", f"{file}:rouge1"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(output, references):\n    return len(output) / 0", r"ZeroDivisionError for output 1: division by zero"),
        ("def f(output, references):\n    return None", "returned None for output 1. Expected a finite number"),
        ("def f(output, references):\n    return float('nan')", "returned nan for output 1"),
        ("def g(): pass", "no function 'f' in .*own.py"),
        ("f = 3", "no function 'f'"),
        ("import no_such_thing", "cannot be imported .ModuleNotFoundError"),
        ("def f(:", "cannot be imported .SyntaxError"),
    ],
)
def test_a_function_that_gives_no_score_is_named(tmp_path, body, message):
    (tmp_path / "own.py").write_text(body)
    with pytest.raises(BakeoffError, match=f"metrics: .*own.py:f: .*{message}"):
        score_outputs([f"{tmp_path}/own.py:f"], OUTPUTS, REFERENCES)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metrics": ["rogue"]}, "metrics: unknown metric 'rogue'. Did you mean 'rouge'"),
        ({"metrics": []}, "metrics: expected one or more"),
        ({"metrics": ["bleu", "bleu"]}, "metrics: must not name a metric twice"),
        ({"metrics": ["os;system:x"]}, "metrics: unknown metric 'os;system:x'"),
        ({"metrics": "rouge"}, "metrics: expected a list"),
    ],
)
def test_a_name_that_is_none_is_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"data": "docstrings", "entries": ["lora"], **keys})


def test_a_file_is_relative_to_the_config_and_a_module_is_not(tmp_path):
    text = "data: docstrings\nentries: [lora]\nmetrics: [bleu, sub/own.py:f, math:fsum]\n"
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml").metrics == ["bleu", f"{tmp_path}/sub/own.py:f", "math:fsum"]


def test_a_score_without_bounds_is_told_as_it_is():
    facts = {
        "low": 1.0,
        "high": 20.5,
        "p": None,
        "p_adjusted": None,
        "different": True,
        "detectable": None,
        "covers": "",
    }
    pair = Difference(difference=12.3456, **facts)
    assert Yardstick("words", "words", bounded=False).gap(pair) == "12.3 (95 % interval 1 to 20.5)"
    assert Yardstick().gap(pair.model_copy(update={"difference": 0.1})) == "10.0 points (95 % interval 100.0 to 2050.0)"


def test_a_bakeoff_is_ranked_by_the_metric_that_its_config_names(tiny_config, tmp_path):
    (tmp_path / "own.py").write_text("def words(output, references):\n    return len(output.split())\n")
    groups = [{**row, "who": f"g{i % 5}"} for i, row in enumerate(make_rows(10, 2))]
    config = tiny_config | {
        "entries": {"lora": {"r": 2, "target_modules": ["c_attn"]}},
        "baselines": ["base", "lead-1"],
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
        "metrics": [f"{tmp_path}/own.py:words", "exact_match", "chrf"],
    }
    splits = {s: str(write_rows(tmp_path / f"{s}.g.jsonl", groups)) for s in ("train", "validation", "test")}
    config["data"] = {**splits, "group": "who"}
    config["template"] = "{{ who }} {{ document }} {% if who == 'g1' %}ba{% endif %}"
    results = bakeoff.run(config, display="none")
    document = results.document
    row = document.entries["lora"]
    outputs = [p["output"] for p in results.entry("lora").predictions()]
    assert row.metrics["test/words"].mean == pytest.approx(sum(len(o.split()) for o in outputs) / 10)
    assert set(row.metrics) >= {"test/exact_match", "test/chrf", "test/chrf_corpus"}
    assert not any("rouge" in name for name in row.metrics)
    assert row.metrics["test/chrf_corpus"].low is None
    assert (document.primary, document.verdict.metric) == ("words", "test/words")
    assert "the only finished entry: words " in results.verdict
    assert document.verdict.documents == 5
    assert document.verdict.unit == "groups"
    assert "| words |" in str(results)
    assert "ROUGE" not in (results.folder.path / "results.md").read_text()
    assert (
        "chrF" in (results.folder.path / "results.csv").read_text()
        or "test/chrf" in (results.folder.path / "results.csv").read_text()
    )
    prompt = {"who": "g1", "document": groups[0]["document"]}
    outputs = CliRunner().invoke(main, ["generate", str(results.folder.path), "--rows"], input=json.dumps(prompt))
    assert outputs.exit_code == 0, outputs.output
    refused = CliRunner().invoke(main, ["generate", str(results.folder.path)], input="ba be")
    assert refused.exit_code == 2
    assert "document 1: template: no column 'who'" in refused.stderr
    refused = CliRunner().invoke(main, ["generate", str(results.folder.path), "--rows"], input="{}\n[")
    assert "generate: standard input:2: not JSON" in refused.stderr
    assert value_of({"p": 0, "r": 0, "f": 0.5}) == 0.5
    assert math.isfinite(metric("chrf").score(["a"], [["b"]])[0]["chrf"])

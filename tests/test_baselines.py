"""The baselines: extracts against slow counts, few-shot prompts, and what is said where one has no room."""

import itertools
import json
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

import bakeoff
from bakeoff.compute.model.base import load_tokenizer
from bakeoff.config.loading import load_config
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form
from bakeoff.data.tokens import encode
from bakeoff.errors import ConfigError
from bakeoff.scoring.baselines import (
    Reference,
    _words,
    extract,
    oracle,
    settle,
)
from bakeoff.scoring.prompted import (
    NoRoomError,
    around_shots,
    choose_shots,
    cut_share,
    enough,
    first_answer,
    prompted_rows,
)

SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
TEMPLATE = "Text: {{ document }}\nTL;DR:"


def summed(output: str, reference: str) -> float:
    """The oracle's aim, by rouge-score alone."""
    return sum(score.fmeasure for score in SCORER.score(reference, output).values())


def made_up(seed: int) -> tuple[list[str], str]:
    """Return the sentences of a document and a reference that shares words, inflected, with some of them."""
    chosen = random.Random(seed)
    words = ["walk", "walks", "dog", "dogs", "the", "on", "roads", "tree", "jumping", "jumped", "naïve", "x-ray", "B2"]
    lines = [" ".join(chosen.choices(words, k=chosen.randint(2, 6))).capitalize() + "." for _ in range(6)]
    return lines, " ".join(chosen.choices(words, k=chosen.randint(2, 9)))


def greedy(lines: list[str], reference: str) -> list[int]:
    """Greedy choice as slow as it is plain: rouge-score for every candidate."""
    chosen, best = [], 0.0
    while True:
        tried = {i: summed(" ".join(lines[j] for j in sorted([*chosen, i])), reference)
                 for i in range(len(lines)) if i not in chosen}  # fmt: skip
        top = max(tried.values(), default=0.0)
        if top <= best + 1e-12:
            return chosen
        best = top
        chosen = sorted([*chosen, min(i for i, score in tried.items() if score >= top - 1e-12)])


@pytest.mark.parametrize("seed", range(60))
def test_the_oracle_chooses_as_rouge_score_would(seed):
    lines, reference = made_up(seed)
    found = oracle("\n".join(lines), reference)
    assert found == " ".join(lines[i] for i in greedy(lines, reference))
    assert Reference(_words(reference)).score(_words(found)) == pytest.approx(summed(found, reference), abs=1e-9)
    every = [
        summed(" ".join(lines[i] for i in part), reference)
        for count in range(len(lines) + 1)
        for part in itertools.combinations(range(len(lines)), count)
    ]
    assert max(summed(line, reference) for line in lines) - 1e-9 <= summed(found, reference) <= max(every) + 1e-9


def test_the_oracle_finds_the_best_extract_where_the_reference_is_one():
    lines = ["The dog walks.", "A tree stands on the road.", "Rain fell all night.", "Nobody jumped over it."]
    for first, second in itertools.combinations(lines, 2):
        assert oracle(" ".join(lines), f"{first} {second}") == f"{first} {second}"
    assert oracle(" ".join(lines), "Quite other words") == ""
    assert oracle(" ".join(lines), "漢字") == ""


def test_extracts_are_texts_and_the_base_is_none():
    examples = [Example("1", "One dog. Two dogs. A tree.", "a tree")]
    assert extract("lead-2", examples, {}) == ["One dog. Two dogs."]
    assert extract("oracle", examples, {}) == ["A tree."]
    assert extract("base", examples, {}) is None
    assert extract("few-shot-2", examples, {}) is None


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("base")


def examples_of(*lengths: int) -> list[Example]:
    chosen = random.Random(3)
    words = ["return", "value", "list", "sorted", "key", "file", "open", "path", "name", "read"]
    return [Example(str(i), " ".join(chosen.choices(words, k=n)), f"answer number {i}") for i, n in enumerate(lengths)]


def test_shots_are_of_the_shorter_half_whatever_the_order(tokenizer):
    examples = examples_of(*range(10, 50, 2))
    rows = list(encode(examples, make_form(tokenizer, TEMPLATE, False), 200, 8, "train"))
    places = choose_shots(examples, rows)
    assert len(set(places)) == 10
    assert all(i < 10 for i in places)
    turned = choose_shots(examples[::-1], rows[::-1])
    assert [examples[::-1][i].id for i in turned] == [examples[i].id for i in places]
    with pytest.raises(NoRoomError, match="10 examples, not 11"):
        enough(places, 11)


def with_shots(rows, shots, tokenizer, context):
    form = make_form(tokenizer, TEMPLATE, False)
    places = [range(len(shots))] * len(rows)
    around = around_shots({"train": shots, "test": rows}, [None] * len(rows), [], places, form, "\n\n")
    return prompted_rows(rows, around, form, context, 8)


def test_a_few_shot_prompt_is_the_template_again_and_again(tokenizer):
    examples = examples_of(12, 9, 30)
    rows = list(encode(examples, make_form(tokenizer, TEMPLATE, False), 100, 8, "test"))
    made = with_shots(rows[2:], rows[:2], tokenizer, 512)
    assert tokenizer.decode(made[0].prompt) == (
        f"Text: {examples[0].document}\nTL;DR: answer number 0\n\n"
        f"Text: {examples[1].document}\nTL;DR: answer number 1\n\n"
        f"Text: {examples[2].document}\nTL;DR:"
    )
    assert tokenizer.eos_token_id not in made[0].prompt
    assert (made[0].target, made[0].cut) == (rows[2].target, False)
    assert cut_share(made, rows[2:]) == 0
    unbounded = with_shots(rows[2:], rows[:2], tokenizer, None)
    assert unbounded == made


def test_documents_are_cut_to_the_context_and_nothing_else_is(tokenizer):
    rows = list(encode(examples_of(5, 6, *[20] * 10), make_form(tokenizer, TEMPLATE, False), 100, 8, "test"))
    shots, test = rows[:2], rows[2:]
    whole = with_shots(test, shots, tokenizer, 512)
    context = max(len(row.prompt) for row in whole) + 8 - 3
    made = with_shots(test, shots, tokenizer, context)
    for row, uncut in zip(made, whole, strict=True):
        assert len(row.prompt) + max(8, len(row.target)) <= context
        text = tokenizer.decode(row.prompt)
        assert text.endswith("\nTL;DR:")
        assert tokenizer.decode(uncut.prompt).startswith(text.removesuffix("\nTL;DR:"))
        assert row.cut == len(uncut.prompt) - len(row.prompt)
    cut = sum(row.cut > 0 for row in made) / len(made)
    assert cut_share(made, test) == cut > 0
    for context in (60, 30):
        with pytest.raises(NoRoomError, match=f"context of {context} tokens is too short: the examples take"):
            with_shots(test, shots, tokenizer, context)


def test_a_few_shot_output_ends_where_the_base_goes_on_with_another_example():
    assert first_answer(" An answer.\n\nText: and more") == "An answer."
    assert first_answer("\n\nAn answer\nof two lines") == "An answer\nof two lines"
    assert first_answer("") == ""


def test_without_tokens_a_plan_leaves_few_shot_open():
    config = load_config({"data": "docstrings", "entries": ["lora"]})
    run, not_run = settle(config, {"train": [], "test": []}, {}, None, 64, None)
    assert list(run) == ["base", "few-shot-2", "lead-1", "oracle"]
    assert not not_run


def test_a_baseline_without_room_is_a_row_and_no_failure(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2}}
    tiny_config["baselines"] = ["base", "few-shot-9", "lead-2"]
    assert list(bakeoff.plan(tiny_config)["not_run"]) == ["few-shot-9"]
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    row = results.document.baselines["few-shot-9"]
    assert results.document.status == "done"
    assert (row.status, row.metrics) == ("not run", {})
    assert row.error.startswith("the context of 64 tokens is too short: the examples take")
    assert "few-shot-9" not in results.verdict
    assert 'few-shot-9,baseline,not run,"the context of 64 tokens is too short' in results.folder.csv_file.read_text()
    for file in (results.folder.report_file, results.folder.markdown_file):
        assert "not run: the context of 64 tokens is too short" in file.read_text()
    assert list(results.document.baselines) == ["base", "few-shot-9", "lead-2"]


def test_few_shot_is_measured_where_it_fits(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2}}
    tiny_config["protocol"] = {"epochs": 1, "max_tokens": 20}
    tiny_config["baselines"] = ["base", "few-shot-1"]
    results = bakeoff.run(tiny_config, display="none")
    row = results.document.baselines["few-shot-1"]
    shot, base = row.metrics, results.document.baselines["base"].metrics
    assert row.status == "done"
    assert len(row.settings["examples"]) == 1
    assert shot["test/loss"].mean != base["test/loss"].mean
    assert 0 <= shot["test/rougeL"].mean <= 1
    assert "neutral/loss" not in shot
    predictions = results.folder.run(row.runs[0]).predictions()
    assert all("\n\n" not in p.output and p.tokens > 0 for p in predictions)
    assert json.loads(results.folder.plan_file.read_text())["not_run"] == {}


def test_names_of_baselines_are_reserved(tiny_config):
    for name, baselines in (("oracle", ["base"]), ("lead-7", ["base", "lead-7"])):
        with pytest.raises(ConfigError, match=f"entries.{name}: this is the name of a baseline"):
            bakeoff.plan({**tiny_config, "entries": {name: {"method": "lora"}}, "baselines": baselines})

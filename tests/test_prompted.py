"""Prompted baselines: what is shown before a document, how an instruction is found, and that a prompt may tie."""

from itertools import pairwise
from random import Random

import numpy
import pytest

import bakeoff
from bakeoff.compute.model.base import load_tokenizer
from bakeoff.config.chat import ChatConfig
from bakeoff.config.loading import load_config
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form
from bakeoff.data.tokens import encode
from bakeoff.errors import ConfigError
from bakeoff.methods.instructions import STARTS, best, edited, search
from bakeoff.scoring.prompted import (
    Nearest,
    NoRoomError,
    around_instruction,
    around_shots,
    nearest_places,
    prompted_rows,
    shots_of,
)
from bakeoff.testing.chats import chat_tokenizer
from tests.test_baselines import TEMPLATE, examples_of
from tests.test_verdict import judge, row_of


@pytest.fixture(scope="module")
def form():
    return make_form(load_tokenizer("base"), TEMPLATE, False)


def encoded(form, *splits):
    names = ("train", "test")
    return {name: list(encode(examples, form, 100, 8, name)) for name, examples in zip(names, splits, strict=True)}


def test_the_nearest_examples_share_rare_words_and_ties_go_to_the_first():
    texts = ["open the file", "sort the list by key", "read the file path", "sort the keys", "zebra"]
    index = Nearest([Example(str(i), text, "x") for i, text in enumerate(texts)])
    assert index.places("a file path", 2) == [2, 0]
    assert index.places("sort", 5)[:2] == [3, 1]
    assert index.places("words that no example has", 3) == [0, 1, 2]
    assert index.places("", 1) == [0]


def test_nearest_examples_stand_before_their_own_document_the_nearest_last(form):
    train = [Example("0", "open a file", "opens"), Example("1", "sort a list", "sorts"), Example("2", "list", "lists")]
    test = [Example("3", "sort this list now", "s"), Example("4", "the file", "f")]
    tokens = encoded(form, train, test)
    places = nearest_places(2, train, test, tokens, form, "\n\n", 512, 8)
    assert places[0] == [2, 1]
    assert places[1][-1] == 0
    rows = prompted_rows(tokens["test"], around_shots(tokens, test, train, places, form, "\n\n"), form, 512, 8)
    assert form.tokenizer.decode(rows[0].prompt) == (
        "Text: list\nTL;DR: lists\n\nText: sort a list\nTL;DR: sorts\n\nText: sort this list now\nTL;DR:"
    )


def test_nearest_examples_that_would_cut_the_document_are_left_out(form):
    train, test = examples_of(*[10] * 6), examples_of(60)
    tokens = encoded(form, train, test)
    length = len(tokens["test"][0].prompt) + 8
    for context, count in ((length, 0), (length + 30, 1), (512, 4)):
        places = nearest_places(4, train, test, tokens, form, "\n\n", context, 8)
        assert len(places[0]) == count
        around = around_shots(tokens, test, train, places, form, "\n\n")
        (row,) = prompted_rows(tokens["test"], around, form, context, 8)
        assert row.kept == tokens["test"][0].kept
        assert len(row.prompt) + 8 <= context


def test_many_shot_takes_as_many_examples_as_leave_every_document_whole(form):
    train, test = examples_of(*range(5, 45)), examples_of(5, 40, 20)
    tokens, counts = encoded(form, train, test), []
    splits = {"train": train, "test": test}
    for context in (120, 200, 400):
        places = shots_of("many-shot", splits, tokens, form, context, 8)["examples"]
        around = around_shots(tokens, test, train, [places] * 3, form, "\n\n")
        rows = prompted_rows(tokens["test"], around, form, context, 8)
        assert [row.cut for row in rows] == [row.cut for row in tokens["test"]]
        assert context - max(len(row.prompt) + 8 for row in rows) < 60  # one more of these would not fit
        counts.append(len(places))
    assert all(fewer < more for fewer, more in pairwise(counts))
    for context, why in ((80, "too short for an example"), (None, "does not say how long")):
        with pytest.raises(NoRoomError, match=why):
            shots_of("many-shot", splits, tokens, form, context, 8)


def test_an_instruction_is_the_only_difference_of_its_prompt(form):
    own = Example("1", "a text", "s", around=("Q: ", " A:"))
    rows = list(encode([own, *examples_of(4)], form, 100, 8, "test"))
    shown = prompted_rows(rows, around_instruction(rows, [own, *examples_of(4)], form, "Do it."), form, 512, 8)
    for row, plain in zip(shown, rows, strict=True):
        decode = form.tokenizer.decode
        assert decode(row.prompt) == f"Do it.\n\n{decode(plain.prompt)}"
    assert prompted_rows(rows, around_instruction(rows, [own, *examples_of(4)], form, ""), form, 512, 8) == rows


def test_in_a_conversation_an_instruction_begins_the_users_turn_and_nearest_examples_are_turns():
    form = ChatForm(chat_tokenizer("chatml"), ChatConfig())
    train = [Example("0", "open a file", "opens"), Example("1", "sort a list", "sorts")]
    test = [Example("2", "sort this list", "s"), Example("3", "close the file", "c")]
    tokens = encoded(form, train, test)

    def theirs(*turns):
        messages = [{"role": role, "content": text} for role, text in turns]
        return form.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]

    shown = prompted_rows(tokens["test"], around_instruction(tokens["test"], test, form, "Do it."), form, 512, 8)
    before, after = form.constant
    assert shown[0].prompt == theirs(("user", f"Do it.\n\n{before}sort this list{after}"))
    places = nearest_places(1, train, test, tokens, form, "", 512, 8)
    assert places == [[1], [0]]
    rows = prompted_rows(tokens["test"], around_shots(tokens, test, train, places, form, ""), form, 512, 8)
    for row, (near, answer), own in zip(rows, (("sort a list", "sorts"), ("open a file", "opens")), test, strict=True):
        turns = ("user", f"{before}{near}{after}"), ("assistant", answer), ("user", f"{before}{own.document}{after}")
        assert row.prompt == theirs(*turns)


def test_the_search_keeps_what_lowers_the_loss_and_finds_the_same_again():
    def loss_of(text: str) -> float:
        return 5 - len({"main", "line", "text"} & {*text.lower().split()}) + len(text.split()) / 100

    losses = search(loss_of, STARTS, 200, seed=1)
    assert len(losses) == 200
    assert list(losses)[: len(STARTS) + 1] == ["", *STARTS]
    assert losses[best(losses)] < min(map(loss_of, ["", *STARTS])) - 0.5
    assert losses == search(loss_of, STARTS, 200, seed=1)
    assert list(losses) != list(search(loss_of, STARTS, 200, seed=2))
    assert list(search(loss_of, STARTS, 3, seed=1)) == ["", *STARTS[:2]]


def test_a_search_ends_where_there_is_nothing_new():
    assert set(search(lambda text: 0.0, ["a"], 10_000, seed=0)) >= {"", "a"}


def test_no_edit_leaves_the_words_of_the_starts():
    draw, known, text = Random(0), {word for start in STARTS for word in start.split()}, ""
    for _ in range(300):
        text = edited(text, STARTS, draw)
        assert {*text.split()} <= known
        text = "" if len(text) > 200 else text


def test_prompts_run_beside_entries(tiny_config):
    tiny_config["entries"] = {"lora": {"r": 2}}
    tiny_config["protocol"] = {"epochs": 1, "max_tokens": 20}
    tiny_config["tune"] = {"trials": 2}
    tiny_config["baselines"] = ["base", "many-shot", "nearest-1", "instruction"]
    tiny_config["instructions"] = ["w1 w2 w3", "w9"]
    results = bakeoff.run(tiny_config, display="none")
    rows = results.document.baselines
    assert [row.status for row in rows.values()] == ["done"] * 4
    losses = {name: row.metrics["test/loss"].mean for name, row in rows.items()}
    assert len({*losses.values()}) >= 3
    found = rows["instruction"]
    assert found.settings["start"] == ["w1 w2 w3", "w9"]
    assert {*found.instruction.split()} <= {"w1", "w2", "w3", "w9"}
    assert rows["many-shot"].metrics["test/shots"].mean == len(rows["many-shot"].settings["examples"]) > 0
    assert 0 < rows["nearest-1"].metrics["test/shots"].mean <= 1
    page = results.folder.report_file.read_text()
    assert "validation loss" in page
    assert f"lowest of {found.settings['tried']} that were tried" in page
    again = bakeoff.run(tiny_config, display="none")
    assert again.document.baselines["instruction"].instruction == found.instruction


def test_wrong_prompts_are_refused_with_what_is_allowed(tiny_config):
    wrong = [
        ({"baselines": ["base", "nearest"]}, "Did you mean .nearest-4"),
        ({"baselines": ["base", "many-shot-3"]}, "Did you mean .many-shot"),
        ({"baselines": ["base", "instruction"], "tune": "off"}, "found by a search, but tune is off"),
        ({"instructions": ["Do."]}, "nothing uses it"),
        ({"baselines": ["base", "instruction"], "instructions": ["a", "a"], "tune": {"trials": 2}}, "different texts"),
        ({"baselines": ["base", "instruction"], "instructions": [" "], "tune": {"trials": 2}}, "not empty"),
    ]
    for change, message in wrong:
        with pytest.raises(ConfigError, match=message):
            load_config({**tiny_config, **change})


def test_a_prompt_that_is_as_good_as_the_best_is_in_the_first_lines():
    generator = numpy.random.default_rng(1)
    shared, (own, other, near) = generator.uniform(0.2, 0.6, 300), generator.normal(0, 0.1, (3, 300))
    rows = {"lora": row_of(), "ia3": row_of(), "nearest-4": row_of("baseline"), "few-shot-2": row_of("baseline")}
    rouge = {
        "lora": shared + 0.1 + own,
        "ia3": shared + other,
        "nearest-4": shared + 0.1 + near,
        "few-shot-2": shared - 0.2 + other,
    }
    verdict = judge(rows, rouge)
    assert "The prompt nearest-4, which trains nothing, ties with lora (difference " in verdict.headline
    assert "few-shot-2" not in verdict.headline
    above = judge(rows, rouge | {"nearest-4": shared + 0.3 + near})
    assert "The prompt nearest-4, which trains nothing, is above lora by 19.3 points" in above.headline
    below = judge(rows, rouge | {"nearest-4": shared + near})
    assert "prompt" not in below.headline

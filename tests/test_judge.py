"""A judge model on this machine: both orders, what it costs, what goes wrong, and how it joins people's votes."""

from types import SimpleNamespace

import numpy
import pytest
from click.testing import CliRunner

import bakeoff
from bakeoff.analysis.summary import summarize
from bakeoff.cli.main import main
from bakeoff.config.machine import JudgeConfig
from bakeoff.errors import BakeoffError
from bakeoff.judging.client import choice_of
from bakeoff.judging.judge import judged_pairs, questions
from bakeoff.store.files import write_jsonl
from bakeoff.store.votes import read_judgements
from tests.loopback_judge import judging, longest
from tests.test_tasting import tasted, vote_all

PAIR = ("lora", "last_layers")


def judged(folder, url, entries=PAIR, **settings):
    """Ask the judge at this address."""
    own = {"base_url": url, "model": "judge", "retries": 1} | settings
    return bakeoff.judge(folder.path, {f"judge.{key}": value for key, value in own.items()}, entries)


def preference(folder):
    """Return the one preference in the results, and the verdict."""
    document = bakeoff.load_results(folder.path).document
    (row,) = document.preferences
    return row, document.verdict.text


def test_a_judge_is_asked_in_both_orders_once_and_told_no_names(distinct):
    with judging() as (url, asked):
        totals = judged(distinct, url)
        assert len(asked) == totals.asked == 20
        assert totals.prompt_tokens == 200
        assert not any(name in str(body) for name in PAIR for body in asked)
        assert judged(distinct, url).asked == 0
        assert len(asked) == 20
        assert judged(distinct, url, criteria="Brevity.").asked == 20
    row, text = preference(distinct)
    assert (row.by, row.judged, row.labels, row.flips, row.judge) == ("judge", 10, 0, 0.0, "judge-1")
    assert "That is the judge's preference on 10 documents, not people's." in text
    assert "20 judgements of an earlier judge, or prompt, do not count" in text
    assert numpy.isclose(row.net, row.wins - row.losses)


def test_a_judge_that_takes_the_first_output_prefers_nobody(distinct):
    with judging(say=lambda one, two: "I like it.\n1") as (url, _):
        judged(distinct, url)
    row, text = preference(distinct)
    assert (row.net, row.flips, row.different) == (0.0, 1.0, False)
    assert "changes its answer with the order of the outputs in 100%" in text


def test_equal_outputs_that_nobody_is_asked_about_say_nothing_of_the_judge(distinct):
    one, other = (distinct.run(next(r.id for r in distinct.runs() if r.entry == name)) for name in PAIR)
    rows = [row.row() for row in other.predictions()]
    rows[:4] = [row | {"output": same.output} for row, same in zip(rows[:4], one.predictions(), strict=False)]
    write_jsonl(other.predictions_file, rows)
    other.write_result(other.result())
    with judging(say=lambda one, two: "1") as (url, asked):
        judged(distinct, url)
        assert len(asked) == 12
    row, text = preference(distinct)
    assert (row.judge, row.judged, row.flips, row.notes) == ("judge-1", 10, 1.0, [])
    assert "changed its version" not in text


@pytest.mark.parametrize(
    ("text", "choice"),
    [("1", "first"), ("Both are fine.\n\n**2**", "second"), ("<think>1\n2</think>\nTie.", "tie"),
     ("Output 2", "second"), ("I cannot judge this.", None), ("1 or 2", None), ("", None), ("<think>1\n2", None)],
)  # fmt: skip
def test_the_last_line_of_an_answer_is_the_choice(text, choice):
    assert choice_of(text) == choice


def test_nonsense_counts_as_a_tie_and_is_said(distinct):
    with judging(say=lambda one, two: "As a language model, no.") as (url, _):
        totals = judged(distinct, url)
    assert totals.unanswered == 20
    row, text = preference(distinct)
    assert (row.net, row.unanswered) == (0.0, 20)
    assert "gave no usable answer 20 times, which count as ties" in text


def test_a_judge_that_changes_its_version_is_noticed(distinct):
    with judging(version=lambda count: "old" if count < 5 else "new") as (url, _):
        judged(distinct, url)
    assert "the judge changed its version while it was asked (new, old)" in preference(distinct)[1]


def test_what_fails_is_asked_again_and_nothing_is_lost(distinct):
    with judging(status=lambda count: 503 if count == 3 else 200) as (url, asked):
        assert judged(distinct, url, parallel=1).asked == 20
        assert len(asked) == 21
    with judging(status=lambda count: 401 if count > 6 else 200) as (url, _):
        with pytest.raises(BakeoffError, match="what was judged so far is kept"):
            judged(distinct, url, parallel=1, criteria="Other.")
        kept = len(read_judgements(distinct.judge_file)) - 20
        assert kept == 6
    with judging(seconds=0.5) as (url, _), pytest.raises(BakeoffError, match="timed out"):
        judged(distinct, url, parallel=1, criteria="Slow.", seconds=0.05)


def test_documents_with_votes_are_judged_first_and_the_others_in_no_order_of_the_file(distinct):
    with tasted(distinct.path, *PAIR, pairs=3) as server:
        vote_all(server, lambda shown: "left")
        voted = {item.place for item in server.tasting.items}
    document = bakeoff.load_results(distinct.path).document
    config = JudgeConfig(base_url="http://127.0.0.1:9/v1", model="x")
    places = [q.place for q in questions(distinct, document, [PAIR], config)]
    assert set(places[: 2 * len(voted)]) == voted
    assert places[::2] == places[1::2]  # both orders of a document before the next one
    assert places != sorted(places)
    few = [q.place for q in questions(distinct, document, [PAIR], config.model_copy(update={"documents": 4}))]
    assert few == places[:8]


def test_a_judge_that_points_elsewhere_is_not_followed(distinct):
    with (
        judging() as (other, never),
        judging(status=lambda count: 307, location=f"{other}/chat/completions") as (url, _),
    ):
        with pytest.raises(BakeoffError, match="Error code: 307"):
            judged(distinct, url, parallel=1)
        assert never == []


def test_votes_and_judge_are_joined_from_enough_labels_on(distinct, monkeypatch):
    with judging() as (url, _):
        judged(distinct, url)
    with tasted(distinct.path, *PAIR, pairs=6) as server:
        vote_all(server, lambda shown: {"1": "left", "2": "right"}.get(longest(shown["left"], shown["right"]), "tie"))
    row, text = preference(distinct)
    assert (row.by, row.labels, row.judged, row.weight) == ("people", 6, 10, 0.0)
    assert "a judge is joined from 20 documents with votes on, so it is left out here" in text
    monkeypatch.setattr("bakeoff.analysis.tasting.JOINED", 6)
    document = summarize(distinct)
    (row,), text = document.preferences, document.verdict.text
    assert (row.by, row.labels, row.judged, row.agreement) == ("people and judge", 6, 10, 1.0)
    assert numpy.isclose(row.net, row.judge_net, atol=0.05)  # they always agree, so all documents count
    assert "joined with the judge judge-1 on 10" in text
    with judging() as (url, _):
        judged(distinct, url, criteria="Fewer.", documents=2)
    row, text = preference(distinct)
    assert (row.by, row.judged) == ("people", 2)
    assert "the judge has not seen all documents with votes, so it is left out here" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "no judge is named in a config. Try: -s judge.base_url="),
        (["-s", "judge.model=x"], "no judge is named"),
        (["-s", "judge.base_url=ftp://x", "-s", "judge.model=x"], "judge.base_url:"),
        (["-s", "judge.url=http://x"], "not a key of the judge"),
        (["-s", "judge.base_url=http://x/v1", "-s", "judge.model=x", "-s", "judge.key_variable=NO_SUCH_KEY"],
         "NO_SUCH_KEY is not set"),
        (["-s", "judge.base_url=http://127.0.0.1:9/v1", "-s", "judge.model=x", "-s", "judge.retries=0"], "Connection"),
        (["--entry", "lora", "-s", "judge.base_url=http://x/v1", "-s", "judge.model=x"], "needs two finished entries"),
        (["--entry", "loora", "-s", "judge.base_url=http://x/v1", "-s", "judge.model=x"], "Did you mean 'lora'?"),
    ],
)  # fmt: skip
def test_wrong_judges_are_one_line(distinct, settings, said, monkeypatch):
    monkeypatch.setattr("bakeoff.judging.settings.is_own", lambda folder: True)
    done = CliRunner().invoke(main, ["judge", str(distinct.path), *settings])
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_folder_from_elsewhere_does_not_say_where_outputs_go(distinct):
    with judging() as (url, asked):
        text = distinct.config_file.read_text().replace("judge: null", f"judge: {{base_url: '{url}', model: x}}")
        distinct.config_file.write_text(text)
        done = CliRunner().invoke(main, ["judge", str(distinct.path)])
        assert done.exit_code == 2
        assert "from elsewhere, or was edited" in done.output
        assert asked == []


def test_the_best_is_judged_against_each_other_and_a_share_of_the_other_pairs_too():
    rows = {name: SimpleNamespace(seeds=3, status="done") for name in ("a", "b", "c", "d", "e")}
    document = SimpleNamespace(rows=rows, entries=rows, verdict=SimpleNamespace(best="c"))

    def pairs(share, entries=()):
        return {frozenset(pair) for pair in judged_pairs(SimpleNamespace(path="x"), document, entries, share)}

    anchored = {frozenset(("c", name)) for name in "abde"}
    assert pairs(0.0) == anchored
    assert pairs(0.0) < pairs(0.5) < pairs(1.0)
    assert (len(pairs(0.5)), len(pairs(1.0))) == (7, 10)
    assert pairs(0.5) == pairs(0.5, ("e", "d", "c", "b", "a"))  # in whatever order they are named

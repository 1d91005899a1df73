"""Blind tasting and judged preferences: the estimator, the votes file, the page's requests, a real browser."""

import contextlib
import json
import math
from dataclasses import replace

import numpy
import pytest

import bakeoff
import bakeoff.reporting
from bakeoff.analysis.two_phase import from_judge, from_people, labels_needed
from bakeoff.errors import SetupError
from bakeoff.store.votes import outputs_hash, read_votes
from tests.conftest import with_figures
from tests.serving import call
from tests.test_browser import SCREENSHOTS, browser  # noqa: F401 - a fixture


@contextlib.contextmanager
def tasted(folder, *entries, **settings):
    """Yield a running tasting."""
    with bakeoff.taste(folder, entries, **settings) as server:
        yield server


def ask(server, path, **fields):
    """Return status and JSON of one request of the page."""
    status, _, found = call(server, "POST", path, {"taster": "ada"} | fields)
    return status, found


def vote_all(server, choose, taster="ada"):
    """Vote on everything; `choose` says from what is shown."""
    _, shown = ask(server, "/show", taster=taster)
    while shown["number"] is not None:
        _, shown = ask(server, "/vote", taster=taster, number=shown["number"], choice=choose(shown))
    return shown


def test_people_alone_have_the_t_interval():
    labels = numpy.array([1.0, 1, 0, -1, 1, 0, 1, -1])
    found = from_people(labels)
    from scipy.stats import ttest_1samp

    known = ttest_1samp(labels, 0)
    assert math.isclose(found.p, known.pvalue)
    assert numpy.allclose((found.low, found.high), tuple(known.confidence_interval()))
    assert labels_needed(found, len(labels)) > 8


def test_a_judge_that_agrees_narrows_and_its_bias_is_taken_off():
    generator = numpy.random.default_rng(3)
    truth = generator.normal(size=400)
    people = numpy.sign(truth + 0.3 * generator.normal(size=400))
    judge = numpy.sign(truth + 0.3 * generator.normal(size=400) + 1.0)[:, None]  # likes the first one far too much
    alone = from_people(people[:60])
    joined = from_people(people[:60], judge[:60, 0], judge)
    assert from_judge(judge).low > 0.5
    assert joined.high - joined.low < alone.high - alone.low
    assert joined.low < people.mean() < joined.high
    useless = from_people(people[:60], generator.choice([-1.0, 1.0], 60), generator.choice([-1.0, 1.0], (400, 1)))
    assert useless.high - useless.low < 1.1 * (alone.high - alone.low)


def test_seeds_that_a_judge_tells_apart_widen():
    generator = numpy.random.default_rng(4)
    table = generator.choice([-1.0, 0.0, 1.0], (200, 3))
    shifted = numpy.clip(table + numpy.array([-0.6, 0.0, 0.6]), -1, 1)
    calm, wide = (from_judge(values) for values in (table, shifted))
    assert wide.high - wide.low > 2 * (calm.high - calm.low)


def test_few_or_equal_labels_are_no_certainty():
    assert from_people(numpy.array([1.0, 1.0])).low is None
    all_won = from_people(numpy.ones(10))
    assert all_won.high == 1
    assert 0 < all_won.low < 0.5
    none = from_people(numpy.zeros(10))
    assert (none.p, none.low < 0 < none.high) == (1.0, True)


def test_votes_are_blind_bound_and_in_the_verdict(distinct):
    with tasted(distinct.path, "lora", "last_layers", pairs=8) as server:
        of = {item.outputs: item for item in server.tasting.items}
        assert len(of) == 8
        seen = []

        def longer(shown):
            seen.append(shown)
            return "left" if len(shown["left"]) >= len(shown["right"]) else "right"

        last = vote_all(server, longer)
        assert (last["done"], last["of"]) == (8, 8)
    assert not any({"lora", "last_layers"} & set(json.dumps(shown).split('"')) for shown in seen)
    votes = read_votes(distinct.votes_file)
    assert len(votes) == 8
    for vote in votes:
        item = of[vote.outputs]
        assert vote.outputs == outputs_hash(item.document, *item.texts)
        one, other = map(len, item.texts)
        assert vote.choice == "tie" or one == other or (vote.choice == "first") == (one > other)
    document = bakeoff.load_results(distinct.path).document
    (row,) = document.preferences
    assert (row.first, row.second, row.by, row.labels, row.tasters) == ("lora", "last_layers", "people", 8, 1)
    assert math.isclose(row.net, numpy.mean([{"first": 1, "second": -1}.get(v.choice, 0) for v in votes]))
    assert "votes of 1 taster on 8 documents" in document.verdict.text


def test_a_tasting_resumes_and_tasters_share_the_work(distinct):
    with tasted(distinct.path, "lora", "last_layers", pairs=6) as server:
        _, first = ask(server, "/show")
        _, second = ask(server, "/vote", number=first["number"], choice="tie", note="alike")
        assert second["number"] != first["number"]
        _, other = ask(server, "/show", taster="bob")
        assert other["number"] == second["number"]  # on the first one there is a vote already
    with distinct.votes_file.open("ab") as torn:
        torn.write(b'{"first": "lo')  # as a kill leaves it
    with tasted(distinct.path, "lora", "last_layers", pairs=6) as server:
        _, again = ask(server, "/show")
        assert again == second
        ask(server, "/vote", number=first["number"], choice="both bad")  # a change of mind
        ask(server, "/vote", number=again["number"], choice="left")
    votes = read_votes(distinct.votes_file)
    assert [v.choice for v in votes][:2] == ["tie", "both bad"]
    (row,) = bakeoff.load_results(distinct.path).document.preferences
    assert (row.labels, row.votes) == (2, 2)


def test_votes_about_outputs_that_have_changed_do_not_count(distinct):
    with tasted(distinct.path, "lora", "last_layers", pairs=4) as server:
        vote_all(server, lambda shown: "left")
    text = distinct.votes_file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    lines[0]["outputs"] = "0" * 64
    distinct.votes_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = bakeoff.load_results(distinct.path).document
    (row,) = document.preferences
    assert row.labels == len(lines) - 1
    assert "1 votes are about outputs that have changed since, and do not count" in document.verdict.text

    copied = [json.dumps(line | {"outputs": "0" * 64}) + "\n" for line in lines]
    distinct.votes_file.write_text("".join(copied))
    document = bakeoff.load_results(distinct.path).document
    assert f"On lora and last_layers: {len(lines)} votes are about outputs that have changed" in document.verdict.text
    assert "prefer" not in document.verdict.text


def test_other_machines_need_the_key_in_the_address(distinct):
    with tasted(distinct.path, "lora", "last_layers", pairs=2, host="0.0.0.0") as server:
        key = server.url.partition("#")[2]
        assert len(key) > 20
        assert call(server, "GET", "/")[0] == 200
        assert call(server, "POST", "/show", {"taster": "a"})[0] == 401
        assert call(server, "POST", "/show", {"taster": "a"}, {"authorization": f"Bearer {key}"})[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"number": 999, "choice": "left"}, 404), ({"number": 0, "choice": "first"}, 422), ({"choice": "left"}, 422),
        ({"number": -1, "choice": "left"}, 422), ({"taster": ""}, 422), ({"number": 0, "choice": "tie", "x": 1}, 422),
        ({"number": 0, "choice": "tie", "note": "n" * 3000}, 422), ({"note": "n" * 30_000}, 413), (b"[[[", 422),
        (b'{"taster": "\\ud800"}', 422),
    ],
)  # fmt: skip
def test_a_wrong_request_keeps_nothing(distinct, body, status):
    with tasted(distinct.path, "lora", "last_layers", pairs=2) as server:
        body = body if isinstance(body, bytes) else {"taster": "ada"} | body
        assert call(server, "POST", "/vote", body)[0] == status
        assert call(server, "POST", "/vote", {"taster": "a"}, {"origin": "http://evil.example"})[0] == 403
        assert call(server, "POST", "/show", {"taster": "a"}, {"host": "evil.example"})[0] == 403
    assert not distinct.votes_file.exists()


def test_a_taster_counts_only_what_people_are_asked(distinct):
    with tasted(distinct.path, "lora", "last_layers", pairs=6) as server:
        server.tasting.items[:2] = [replace(item, texts=("same", "same")) for item in server.tasting.items[:2]]
        _, first = ask(server, "/show")
        assert (first["done"], first["of"]) == (0, 4)
        last = vote_all(server, lambda shown: "left")
    assert (last["done"], last["of"]) == (4, 4)
    assert len(read_votes(distinct.votes_file)) == 6


def test_equal_outputs_of_a_changed_bakeoff_are_an_answer_not_a_fault(distinct):
    with tasted(distinct.path, "lora", "last_layers", pairs=2) as server:
        server.tasting.items = [replace(item, texts=("same", "same")) for item in server.tasting.items]
        distinct.plan_file.write_text(distinct.plan_file.read_text() + " ")
        status, found = ask(server, "/show")
    assert (status, "the bakeoff has changed" in found["error"]) == (409, True)


@pytest.mark.parametrize(
    ("entries", "said"),
    [(["lora", "lorra"], "no entry 'lorra'. Did you mean 'lora'?"), (["lora"], "nothing to be compared with")],
)
def test_what_cannot_be_tasted_is_said(distinct, entries, said):
    with pytest.raises(SetupError, match=said.replace("?", r"\?")):
        bakeoff.taste(distinct.path, entries)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("light", {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}}),
        ("phone", {"color_scheme": "dark", "viewport": {"width": 390, "height": 780}, "has_touch": True}),
    ],
)
def test_a_person_tastes_by_keyboard_and_touch(browser, distinct, name, settings):  # noqa: F811
    with tasted(distinct.path, "lora", "last_layers", pairs=5) as server:
        context = browser.new_context(**settings)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        page.fill("#taster", "ada")
        page.keyboard.press("Enter")
        page.locator("#tasting").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"taste-{name}.png", full_page=True)
        assert "<b>so</b>" in page.inner_text("#left")
        for done in range(1, 6):
            if name == "phone":
                page.locator("#choices button").first.tap()
            elif done == 1:
                page.keyboard.press("n")
                page.keyboard.type("1 reads better")
                page.keyboard.press("Enter")
                page.keyboard.press("4")
            else:
                page.keyboard.press("ArrowLeft")
            page.locator("#count", has_text=f"{done} of 5 done").wait_for()
        page.locator("#done").wait_for()
        context.close()
    votes = read_votes(distinct.votes_file)
    assert len(votes) == 5
    assert complaints == []
    if name == "light":
        noted = next(vote for vote in votes if vote.note == "1 reads better")
        assert noted.choice != noted.left  # the one on the right


def test_the_report_shows_votes_without_a_script(browser, distinct):  # noqa: F811
    with tasted(distinct.path, "lora", "last_layers", pairs=8) as server:
        vote_all(server, lambda shown: "left" if "1" in shown["left"] else "right")
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    with with_figures():
        page.goto(bakeoff.reporting.refresh_report(distinct.path).as_uri())
    section = page.locator("#preferences")
    assert "lora \N{MINUS SIGN} last_layers" in section.inner_text()
    assert "-100" in section.locator("td").first.inner_text()
    assert section.locator("svg").count() == 1
    section.screenshot(path=SCREENSHOTS / "preferences.png")
    context.close()

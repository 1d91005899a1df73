"""Targets that leave no room for a document are cut, dropped or refused, as the config says, and counted."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bakeoff
from bakeoff.cli.main import main
from bakeoff.data.examples import Example
from bakeoff.data.long_targets import settled
from bakeoff.data.prompt_format import make_form
from bakeoff.data.tokens import encode, longest_output, target_lengths, widest_template
from bakeoff.errors import BakeoffError, DataError
from tests.conftest import make_rows, many, write_rows
from tests.test_formats import write

SPLITS = ("train", "validation", "test")


@pytest.fixture
def long_config(tiny_config, tmp_path):
    """A config whose training and test files have targets of 60 words, more than the context of 48 tokens."""
    for split, places in (("train", (3, 9)), ("test", (0, 4))):
        rows = make_rows(20, len(places) + ord(split[1]))
        for place in places:
            rows[place]["summary"] = "ba be " * 30
        write_rows(tmp_path / f"{split}.jsonl", rows)
    return tiny_config | {"entries": ["last_layers"], "baselines": ["base"]}


def planned(config, **data):
    return bakeoff.plan({**config, "data": config["data"] | data})["data"]


def test_by_default_they_are_cut_and_counted(long_config):
    facts = planned(long_config)
    cut = "data.train: 2 of 20 (10.0%) targets leave no room for a document and are cut to"
    assert any(line.startswith(cut) and "(data.long_targets: cut, drop or stop)" in line for line in facts["findings"])
    longer = "data.test: 2 of 20 (10.0%) targets are longer than"
    assert any(line.startswith(longer) and "Raise protocol.max_tokens" in line for line in facts["findings"])
    assert facts["splits"]["train"]["examples"] == 20
    fixed = bakeoff.plan(long_config | {"generation": {"max_new_tokens": 2}})["data"]["findings"]
    assert any(line.startswith("data.test: 20 of 20") and "Raise generation.max_new" in line for line in fixed)


def test_their_examples_are_dropped_from_every_split_if_the_config_says_so(long_config):
    facts = planned(long_config, long_targets="drop")
    assert [facts["splits"][split]["examples"] for split in SPLITS] == [18, 8, 18]
    why = "examples dropped, because their targets leave no room for a document in 48 tokens (data.long_targets: drop)"
    assert [line for line in facts["findings"] if "dropped" in line] == [
        f"data.{split}: 2 of 20 (10.0%) {why}" for split in ("train", "test")
    ]
    assert not any("the longest output" in line for line in facts["findings"])
    assert facts["identity"] != planned(long_config)["identity"]
    data = long_config["data"] | {"long_targets": "drop"}
    results = bakeoff.run({**long_config, "data": data}, {"protocol.epochs": 1}, display="none")
    assert results.document.status == "done"
    assert len(results.entry("last_layers").predictions()) == 18


def test_they_stop_the_plan_if_the_config_says_so(long_config, tmp_path):
    with pytest.raises(BakeoffError, match=r"data.train: 2 of 20 \(10.0%\) targets leave no room .*example '4', by \d"):
        planned(long_config, long_targets="stop")
    write_rows(tmp_path / "test.jsonl", [{"document": "ba", "summary": "ba be " * 30}])
    with pytest.raises(BakeoffError, match=r"data.test: 1 of 1 .* and were dropped. Set data.long_targets: cut"):
        planned(long_config, long_targets="drop")


WORDS = st.integers(1, 70).map(lambda count: "ba " * count)
EXAMPLES = st.lists(st.tuples(WORDS, WORDS, st.integers(0, 40)), min_size=1, max_size=8)


@many(60)
@given(EXAMPLES, st.booleans(), st.integers(50, 64))
def test_what_is_kept_is_whole_and_without_a_users_number_nothing_stops(base, rows, around, max_tokens):
    template = "{{ title }} {{ document }}" if around else None
    form = make_form(base.tokenizer, template, False)
    examples = [
        Example(str(i), document, summary, around=("bi " * title, "") if around else None)
        for i, (document, summary, title) in enumerate(rows)
    ]
    output = longest_output(target_lengths(examples, form), form, max_tokens, widest_template(examples, form))
    made = list(encode(examples, form, max_tokens, output, "x"))
    assert all(len(row.prompt) + max(output, len(row.target)) <= max_tokens and row.kept > 0 for row in made)
    splits = dict.fromkeys(SPLITS, examples)
    ended = [row.target[-1] == base.tokenizer.eos_token_id for row in made]
    try:
        kept = settled(splits, form, max_tokens, "drop")[0]["train"]
    except DataError:
        kept = []
    assert [e.id for e in kept] == [e.id for e, whole in zip(examples, ended, strict=True) if whole]
    if all(ended):
        assert settled(splits, form, max_tokens, "stop")[0]["train"] == examples


def test_what_init_writes_for_long_targets_is_planned(tmp_path):
    rows = [{"prompt": f"write number {i}", "completion": f"print({i})\n" * 400} for i in range(60)]
    path = write(tmp_path / "a.csv", rows)
    for arguments in (
        ["init", str(path), "-o", str(tmp_path / "c.yaml")],
        ["plan", str(tmp_path / "c.yaml"), "--json"],
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert 1 <= plan["output_tokens"] < plan["max_tokens"]
    assert any("targets leave no room for a document and are cut" in line for line in plan["data"]["findings"])

"""From a file of chats to a report: what init writes for each form of conversation plans, and runs, as it is."""

import contextlib
import json
from pathlib import Path

import pytest

import bakeoff
from bakeoff.cli.init import draft
from bakeoff.testing.chats import save_chat_base
from tests.loopback_hub import LoopbackHub, Repository
from tests.test_conversations import FORMS, talk, written
from tests.test_hub import start

QUICK = {
    "tune": None, "entries": {"lora": {"r": 4, "learning_rate": 0.02}}, "protocol.epochs": 1, "protocol.seeds": 1,
    "protocol.max_tokens": 200, "generation.max_new_tokens": 6,
}  # fmt: skip
ALPACA = {"instruction": "instruction", "input": "input", "output": "output"}


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatml")
    save_chat_base(folder, "chatml")
    return str(folder)


@pytest.mark.parametrize("form", [*FORMS, "alpaca"])
def test_init_names_the_form_and_its_config_plans(form, chatml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if form == "alpaca":
        columns, rows = ALPACA, [{"instruction": f"{i} it", "input": "", "output": f"{i}"} for i in range(30)]
    else:
        columns, row_of = FORMS[form]
        rows = [row_of(talk(number)) for number in range(30)]
    written(tmp_path / "chats.jsonl", rows)
    made = draft([tmp_path / "chats.jsonl"], tmp_path / "bakeoff.yaml", chatml)
    (tmp_path / "bakeoff.yaml").write_text(made.text)
    assert not any("set model to an instruct base" in line for line in made.guesses)
    document = bakeoff.plan(tmp_path / "bakeoff.yaml", {"protocol.max_tokens": 200})
    data = document["config"]["data"]
    assert {key: value for key, value in data.items() if key in columns} == columns
    assert document["chat"] is not None


def test_an_instruct_base_and_a_file_of_messages_from_init_to_report(chatml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns, row_of = FORMS["messages"]
    written(tmp_path / "chats.jsonl", [row_of(talk(number)) for number in range(40)])
    (tmp_path / "bakeoff.yaml").write_text(draft([tmp_path / "chats.jsonl"], tmp_path / "bakeoff.yaml", chatml).text)
    results = bakeoff.run(tmp_path / "bakeoff.yaml", QUICK, display="none")
    assert results.document.status == "done"
    assert "lora" in results.folder.report_file.read_text()
    card = (results.entry("lora").adapter / "README.md").read_text()
    assert "tokenizer.apply_chat_template(turns, add_generation_prompt=True)" in card
    assert "where `turns` are the conversation up to the last question" in card


def walked(steps):
    """Carry out commands in this process, which is to have been started for it; print how each went."""
    from click.testing import CliRunner

    from bakeoff.cli.main import main

    for words, given in steps:
        done = CliRunner().invoke(main, words, input=given)
        print(json.dumps([done.exit_code, done.stdout, done.stderr]))


def test_a_whole_bakeoff_on_an_instruct_base_of_the_hub_and_a_file_of_chats(chatml, tmp_path):
    """From init to outputs, as a user types it; the base comes from a hub on the loopback interface."""
    columns, row_of = FORMS["messages"]
    written(tmp_path / "chats.jsonl", [row_of(talk(number)) for number in range(40)])
    files = {file.name: file.read_bytes() for file in Path(chatml).iterdir()}
    hub = LoopbackHub({("models", "someone/instruct"): Repository(files)})
    settings = [word for key, value in QUICK.items() for word in ("-s", f"{key}={json.dumps(value)}")]
    asked = json.dumps({"messages": row_of(talk(3))["messages"][:-1]})
    steps = [
        (["init", "chats.jsonl", "-m", "someone/instruct"], None),
        (["plan", "bakeoff.yaml", *settings], None),
        (["run", "bakeoff.yaml", "--display", "none", *settings], None),
        (["report", "bakeoffs/chats"], None),
        (["generate", "bakeoffs/chats", "--rows", "--json"], asked),
    ]
    with hub.serving() as endpoint, contextlib.chdir(tmp_path):
        root = str(Path(__file__).parent.parent)
        code = f"import sys; sys.path.append({root!r}); from tests.test_chat_init import walked; walked({steps!r})"
        done = start(tmp_path / "home", endpoint, "-c", code)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, *_ in said] == [0] * len(steps), said
    init, planned, ran, reported, generated = said
    assert "messages: 'messages', whose values are lists of turns" in init[1]
    assert "chat: the base's own chat template is used" in planned[1] + planned[2]
    plan = json.loads((tmp_path / "bakeoffs/chats/plan.json").read_text())
    assert (plan["model"]["name"], plan["config"]["data"]["messages"]) == ("someone/instruct", columns["messages"])
    report = (tmp_path / "bakeoffs/chats/report.html").read_text()
    assert "lora" in report
    assert [row["document"] for row in json.loads(generated[1])] == [1]


def test_init_on_a_base_without_a_chat_template_is_told_by_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, row_of = FORMS["sharegpt"]
    written(tmp_path / "chats.jsonl", [row_of(talk(number)) for number in range(30)])
    made = draft([tmp_path / "chats.jsonl"], tmp_path / "bakeoff.yaml")
    assert any("set model to an instruct base" in line for line in made.guesses)
    (tmp_path / "bakeoff.yaml").write_text(made.text)
    with pytest.raises(bakeoff.BakeoffError, match="data.conversations: base has no chat template"):
        bakeoff.plan(tmp_path / "bakeoff.yaml")


def test_documents_with_lists_that_are_no_turns_stay_documents(tmp_path):
    rows = [{"document": f"a long text {i}", "summary": f"text {i}", "tags": [{"name": "x"}]} for i in range(9)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "messages: null" in draft([tmp_path / "x.jsonl"], tmp_path / "b.yaml").text

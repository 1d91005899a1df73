"""From a file of chats to a report: what init writes for each form of conversation plans, and runs, as it is."""

import json

import pytest

import bakeoff
from bakeoff.cli.init import draft
from bakeoff.testing.chats import save_chat_base
from tests.test_conversations import FORMS, talk, written

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
    assert any("set model to an instruct base" in line for line in made.guesses)
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


def test_init_on_a_base_without_a_chat_template_is_told_by_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, row_of = FORMS["sharegpt"]
    written(tmp_path / "chats.jsonl", [row_of(talk(number)) for number in range(30)])
    (tmp_path / "bakeoff.yaml").write_text(draft([tmp_path / "chats.jsonl"], tmp_path / "bakeoff.yaml").text)
    with pytest.raises(bakeoff.BakeoffError, match="data.conversations: base has no chat template"):
        bakeoff.plan(tmp_path / "bakeoff.yaml")


def test_documents_with_lists_that_are_no_turns_stay_documents(tmp_path):
    rows = [{"document": f"a long text {i}", "summary": f"text {i}", "tags": [{"name": "x"}]} for i in range(9)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "messages: null" in draft([tmp_path / "x.jsonl"], tmp_path / "b.yaml").text

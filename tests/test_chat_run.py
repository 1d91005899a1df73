"""A bakeoff on an instruct base: what is trained, generated, and asked of the saved adapter, are the same ids."""

import json

import pytest
import torch

import bakeoff
from bakeoff.api import plan
from bakeoff.data.examples import Example
from bakeoff.data.token_file import load_tokens
from bakeoff.errors import ConfigError
from bakeoff.methods.method import quiet_peft
from bakeoff.store.run_folder import SPLITS
from bakeoff.testing.chats import STYLES, save_chat_base
from tests.conftest import write_splits

OUTPUT = 12


@pytest.fixture(scope="session")
def chat_bases(tmp_path_factory):
    """Folders of tiny instruct bases by style, each made when it is asked for."""
    made = {}

    def folder(style):
        if style not in made:
            made[style] = tmp_path_factory.mktemp(style)
            save_chat_base(made[style], style)
        return str(made[style])

    return folder


def config_for(model, folder, **changes):
    return {
        "name": "chat", "model": model, "data": write_splits(folder) | {"train_limit": 16, "test_limit": 4},
        "entries": {"lora": {"r": 4, "learning_rate": 0.02}, "prompt_tuning": {"num_virtual_tokens": 3}},
        "baselines": ["base", "few-shot-2", "lead-1", "oracle"], "tune": None,
        "protocol": {"epochs": 1, "batch_size": 8, "max_tokens": 200, "seeds": 1, "precision": "fp32"},
        "generation": {"max_new_tokens": OUTPUT}, "output": str(folder / "out"), **changes,
    }  # fmt: skip


def messages_of(document):
    return [{"role": "user", "content": f"Summarize:\n{document}"}]


def plain_use(entry, tokenizer_folder, documents, stops):
    """What a user gets who knows only PEFT and transformers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    model = AutoModelForCausalLM.from_pretrained(tokenizer_folder, dtype=torch.float32)
    with quiet_peft():
        model = PeftModel.from_pretrained(model, str(entry.adapter)).eval()
    texts = []
    for document in documents:
        ids = tokenizer.apply_chat_template(messages_of(document), add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**ids, do_sample=False, max_new_tokens=OUTPUT, eos_token_id=stops, pad_token_id=0)
        texts.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("style", STYLES)
def test_training_generation_and_plain_use_are_one(style, chat_bases, tmp_path):
    from transformers import AutoTokenizer

    model = chat_bases(style)
    config = config_for(
        model, tmp_path, **({"chat": {"kwargs": {"enable_thinking": False}}} if style == "thinking" else {})
    )
    results = bakeoff.run(config, display="none")
    assert results.document.status == "done"
    planned = results.folder.plan()
    tokenizer, options = AutoTokenizer.from_pretrained(model), config.get("chat", {}).get("kwargs", {})
    for split in SPLITS:
        examples = [Example.from_row(row.row()) for row in results.folder.examples(split)]
        for example, row in zip(examples, load_tokens(results.folder.tokens_file(split)), strict=True):
            whole = [*messages_of(example.document), {"role": "assistant", "content": example.summary}]
            prompt = tokenizer.apply_chat_template(whole[:1], add_generation_prompt=True, **options)["input_ids"]
            assert row.prompt == prompt
            assert prompt + row.target == tokenizer.apply_chat_template(whole, **options)["input_ids"][: len(row)]
            assert row.target[-1] in planned.chat.ends
    card = (results.entry("lora").adapter / "README.md").read_text()
    assert '"content": "Summarize:\\n{{ document }}"' in card
    documents = [row.document for row in results.folder.examples("test")]
    if style != "thinking":
        for name in ("lora", "prompt_tuning"):
            entry = results.entry(name)
            ours = entry.load().generate(documents)
            scored = [row["output"] for row in entry.predictions()]
            assert ours == scored
            if name == "lora":
                assert ours == plain_use(entry, model, documents, planned.chat.ends)


def test_the_plan_says_what_is_used_and_how_to_change_it(chat_bases, tmp_path):
    document = plan(config_for(chat_bases("chatml"), tmp_path))
    assert document["chat"]["ends"] == [0, 1, 265]
    (line,) = [line for line in document["data"]["findings"] if line.startswith("chat: ")]
    assert "chat template is used (chat: off for plain text)" in line
    assert "<|im_end|>" in line
    assert document["template"] == "Summarize:\n{{ document }}"
    off = plan(config_for(chat_bases("chatml"), tmp_path, chat="off"))
    own = plan(config_for(chat_bases("chatml"), tmp_path, template="{{ document }}\nTL;DR:"))
    assert off["chat"] is own["chat"] is None
    assert [run["id"] for run in off["runs"]] == [run["id"] for run in own["runs"]]
    other = plan(config_for(chat_bases("chatml"), tmp_path, chat={"system": "Be brief."}))
    ids = [{run["id"] for run in one["runs"] if run["kind"] == "entry"} for one in (document, off, other)]
    assert not ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2]


def test_a_base_without_a_chat_template_stays_as_it_is(tiny_config):
    assert plan(tiny_config)["chat"] is None
    with pytest.raises(ConfigError, match="chat: .* has no chat template. Try: chat: off"):
        plan(tiny_config | {"chat": {}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat": {"sytem": "x"}}, "chat.sytem: unknown key. Did you mean 'system'?"),
        ({"chat": {"user": "Summarize"}}, "chat.*user: must contain {{ document }} exactly once"),
        ({"chat": {"user": "{{ document | upper }}"}}, "without a filter"),
        ({"chat": {"user": "{{ document }} {{ titel }}"}}, "no column 'titel'"),
        ({"chat": {"kwargs": {"messages": []}}}, "'messages' is set by bakeoff itself"),
        ({"chat": {"date": "yesterday"}}, "expected a day as year-month-day, got 'yesterday'"),
        ({"chat": {}, "template": "{{ document }}"}, "chat: 'template' is set, too"),
        ({"chat": {"system": ""}}, "chat.*system"),
        ({"chat": "chatml"}, "chat: expected off, or a mapping of system, user, kwargs and date"),
        ({"chat": 3}, "chat: expected off, or a mapping"),
    ],
)
def test_a_chat_section_that_cannot_be_used_is_one_line(changes, message, chat_bases, tmp_path):
    with pytest.raises(bakeoff.BakeoffError, match=message) as raised:
        plan(config_for(chat_bases("chatml"), tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_another_line_break_in_one_text_is_found_and_told(chat_bases, tmp_path):
    """A tokenizer that reads two line breaks apart where text follows them, and together at a prompt's end."""
    import shutil

    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    model = shutil.copytree(chat_bases("llama3"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save_pretrained(model)
    findings = plan(config_for(str(model), tmp_path))["data"]["findings"]
    (line,) = [line for line in findings if line.startswith("data.train: ") and "answers (of those tried)" in line]
    assert "16 of 16 (100.0%) answers" in line
    assert json.loads((model / "tokenizer.json").read_text())["pre_tokenizer"]["type"] == "ByteLevel"

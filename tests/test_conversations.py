"""Conversations: how rows become turns, which answers are trained, and what is left out."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner

import bakeoff
from bakeoff.api import plan
from bakeoff.cli.main import main
from bakeoff.compute.export.files import write_adapter
from bakeoff.compute.export.read_back import read_back
from bakeoff.compute.export.source import Source
from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.ahead import Ahead
from bakeoff.compute.training.batches import collate
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import batch_of, evaluate_loss, target_losses
from bakeoff.compute.training.trunk_cache import open_trunk
from bakeoff.config.chat import ChatConfig
from bakeoff.config.sandbox import TemplateError
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example, shortened
from bakeoff.data.token_file import lengths_of, load_tokens, save_tokens
from bakeoff.data.tokens import Tokens, encode
from bakeoff.errors import DataError
from bakeoff.methods import build_method
from bakeoff.scoring.prompted import NoRoomError, around_shots, prompted_rows
from bakeoff.testing import family_base
from bakeoff.testing.chats import STYLES, chat_tokenizer, save_chat_base
from bakeoff.testing.contract import PROTOCOL
from tests.conftest import WORDS

TALK = (("system", "Be kind."), ("user", "Who?"), ("assistant", "Me."), ("user", "Why?\nReally?"))
TALKS = Example("1", "Why?\nReally?", "Because.", turns=TALK[1:])


def form_with(style, **chat):
    return ChatForm(chat_tokenizer(style), ChatConfig(**chat))


def theirs(form, example, **options):
    turns = [*example.turns, ("assistant", example.summary)] if not options else example.turns
    messages = [{"role": role, "content": content} for role, content in turns]
    return form.tokenizer.apply_chat_template(messages, **options)["input_ids"]


@pytest.mark.parametrize("style", [style for style in STYLES if style != "thinking"])
def test_every_answer_is_trained_and_nothing_else(style):
    form = form_with(style)
    (parts,) = form.parts([TALKS])
    prompt = [*parts.head, *parts.document, *parts.tail]
    whole = theirs(form, TALKS)
    assert [*prompt, *parts.target] == whole[: len(prompt) + len(parts.target)]
    first = theirs(form, Example("", "", "", turns=TALK[1:2]), add_generation_prompt=True)
    assert prompt == first
    row = Tokens(prompt, parts.target, gaps=parts.gaps)
    ends = form.tokenizer.decode([form.end_id])
    trained = form.tokenizer.decode([row.target[place] for place in row.trained])
    assert trained.replace(" ", "") == f"Me.{ends}Because.{ends}"
    (last,) = form.tested().parts([TALKS])
    asked = theirs(form, TALKS, add_generation_prompt=True)
    assert [*last.head, *last.document, *last.tail] == asked
    assert (last.target, last.gaps) == (row.target[row.gaps[-1][1] :], ())


def test_thoughts_that_later_turns_drop_are_refused_and_the_last_answer_can_be_trained():
    with pytest.raises(TemplateError, match="changes turn 2 .assistant., or .*Set chat.train_on: last"):
        form_with("thinking").parts([TALKS])
    form = form_with("thinking", train_on="last")
    (parts,) = form.parts([TALKS])
    assert form.tokenizer.decode(parts.target) == "<think>\n\n</think>\n\nBecause.<|im_end|>"


def test_a_template_without_an_end_token_trains_last_answers_only():
    tokenizer = copy.deepcopy(chat_tokenizer("chatml"))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(TemplateError, match="ends an answer without a token, so only the last is trained"):
        ChatForm(tokenizer, ChatConfig()).parts([TALKS])
    (parts,) = ChatForm(tokenizer, ChatConfig(train_on="last")).parts([TALKS])
    assert tokenizer.decode(parts.target) == "Because.<|endoftext|>"


def test_a_row_has_its_own_system_text_or_that_of_the_config():
    form = form_with("chatml", system="Be brief.")
    own, others = (
        form.tokenizer.decode(form.parts([e])[0].document) for e in (Example("1", "Why?", "So.", turns=TALK), TALKS)
    )
    assert own.startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert others.startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_the_oldest_turns_are_left_out_and_never_the_system_text_or_the_last_question():
    turns = [("system", "Be kind.")]
    for number in range(30):
        turns += [("user", f"Question {number}?"), ("assistant", f"Answer {number}.")]
    example = Example("1", "The last?", "Yes.", turns=(*turns, ("user", "The last?")))
    form = form_with("chatml")
    (whole,) = form.parts([example])
    for room in (200, 330, 700):
        (row,) = encode([example], form, room, 20, "data.train")
        text = form.tokenizer.decode(row.prompt + row.target)
        assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQuestion ")
        assert text.endswith("<|im_start|>user\nThe last?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>")
        kept = sum(text.count(f"Question {number}?") for number in range(30))
        one_more = shortened(example)[30 - kept - 1]
        (longer,) = form.parts([one_more])
        last = longer.gaps[-1][1]
        assert len(longer.document) + last + max(20, len(longer.target) - last) > room
        assert len(row) - (len(row.target) - row.gaps[-1][1]) + 20 <= room
        assert row.cut == len(whole.document) + len(whole.target) - len(row)
    with pytest.raises(DataError, match="data.train: example '1': its last question, with the system text, has"):
        list(encode([example], form, 60, 20, "data.train"))


def test_rows_with_gaps_are_stored_and_read_again(tmp_path):
    rows = [
        Tokens([5, 6], [7, 0, 8, 9, 10, 0], gaps=((2, 4),)),
        Tokens([1], [2, 0]),
        Tokens([3], [4, 0, 0, 5], gaps=((1, 3),)),
    ]
    save_tokens(tmp_path / "x", rows)
    stored = load_tokens(tmp_path / "x")
    assert [*stored] == rows
    assert stored.lengths.trained.tolist() == lengths_of(rows).trained.tolist() == [4, 2, 2]
    assert [row.trained for row in rows] == [[0, 1, 4, 5], [0, 1], [0, 3]]


GAPPED = (
    Tokens([9, 10, 11], [20, 0, 21, 22, 23, 24, 0], gaps=((2, 5),)),
    Tokens([30, 31, 3], [40, 0]),
    Tokens(list(range(50, 60)), [60, 0, 61, 62, 0, 63, 64, 65, 0], gaps=((2, 3), (5, 7))),
)


def plain_loss(base, adapted, row):
    """The loss of one row from the model's own forward pass of it alone, and all logits."""
    ids = torch.tensor([row.prompt + row.target])
    losses = torch.nn.functional.cross_entropy(adapted(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return losses[[len(row.prompt) - 1 + place for place in row.trained]]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning", "last_layers"])
@torch.no_grad()
def test_every_lever_gives_the_plain_losses_of_the_answers_alone(family, method, tmp_path, monkeypatch):
    base = family_base(family)
    torch.manual_seed(1)
    cls = build_method(
        method, {"method": method, **({"num_virtual_tokens": 3} if "t_tuning" in method or "x_t" in method else {})}
    )
    adapted = adapt(base, cls).eval()
    virtual = method in ("prompt_tuning", "prefix_tuning")
    together = target_losses(base, adapted, batch_of(base, GAPPED))
    counts = [len(row.trained) for row in GAPPED]
    assert len(together) == sum(counts) == 12
    alone = torch.cat([target_losses(base, adapted, batch_of(base, [row])) for row in GAPPED])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    if not virtual:
        plain = torch.cat([plain_loss(base, adapted, row) for row in GAPPED])
        torch.testing.assert_close(together, plain, rtol=1e-4, atol=1e-5)
    from bakeoff.compute.model import forward

    monkeypatch.setattr(forward, "LOGITS_BYTES", 3 * 4 * 200)
    in_parts = target_losses(base, adapted, batch_of(base, GAPPED))
    torch.testing.assert_close(together, in_parts, rtol=1e-4, atol=1e-5)
    found = evaluate_loss(base, adapted, GAPPED, 2)
    assert [count for _, count in found] == counts
    sums = [float(part.sum()) for part in together.split(counts)]
    assert [loss for loss, _ in found] == pytest.approx(sums, rel=1e-4)
    trunk = open_trunk(base, adapted, GAPPED, tmp_path / "train", None, 2)
    if trunk:
        assert method == "last_layers"
        served = target_losses(base, adapted, batch_of(base, GAPPED), trunk.serving([0, 1, 2]))
        torch.testing.assert_close(together, served, rtol=1e-4, atol=1e-5)


def test_gradients_in_parts_are_those_of_the_mean_over_all_trained_tokens():
    base = family_base("llama")
    adapted = adapt(base, build_method("lora", {"method": "lora", "r": 2}))
    trainer = Trainer(base, adapted, build_method("lora", {"method": "lora"}), PROTOCOL, 0, lambda kind, values: None)
    target_losses(base, adapted, batch_of(base, GAPPED)).mean().backward()
    wanted = {name: weight.grad.clone() for name, weight in trainable(adapted).items()}
    adapted.zero_grad()
    trainer.at.micro_batch = 1
    trainer.batches = Ahead(base, GAPPED)
    total = sum(float(part.sum()) for part in trainer._backward_in_parts([0, 1, 2]))
    for name, weight in trainable(adapted).items():
        torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-4, atol=1e-7)
    assert total / 12 == pytest.approx(float(target_losses(base, adapted, batch_of(base, GAPPED)).detach().mean()))


def test_a_batch_holds_the_places_before_each_trained_token():
    batch = collate(GAPPED[:1], 0)
    assert batch.targets.tolist() == [20, 0, 24, 0]
    assert batch.columns.tolist() == [2, 3, 7, 8]
    assert batch.counts == [4]


MESSAGES = [{"role": "user", "content": "ba be"}, {"role": "assistant", "content": "bi"}]


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


BAD = {
    "no column": ({"other": 1}, "column 'messages': is missing. Set data.messages"),
    "text": ({"messages": "hello"}, "column 'messages' contains text, expected a list of turns"),
    "number": ({"messages": 3}, "contains a number, expected a list of turns"),
    "empty": ({"messages": []}, "contains an empty list"),
    "null": ({"messages": None}, "expected a list of turns"),
    "turn is text": ({"messages": ["hello"]}, "turn 1 is text, expected role and content"),
    "no role": ({"messages": [{"content": "x"}]}, "turn 1: 'role' is missing. It has content"),
    "no content": ({"messages": [{"role": "user"}]}, "turn 1: 'content' is missing. It has role"),
    "sharegpt": ({"messages": [{"from": "human", "value": "x"}]}, "'role' is missing. It has from, value"),
    "misspelt": ({"messages": said(("asistant", "x"))}, "unknown role 'asistant'. Did you mean 'assistant'?"),
    "role is a number": ({"messages": [{"role": 1, "content": "x"}]}, "unknown role a number"),
    "null content": ({"messages": said(("user", None), ("assistant", "x"))}, "turn 1 contains nothing, expected text"),
    "blank content": ({"messages": said(("user", " \n"), ("assistant", "x"))}, "turn 1 is empty"),
    "blank answer": ({"messages": said(("user", "x"), ("assistant", ""))}, "turn 2 is empty"),
    "number content": ({"messages": said(("user", 3), ("assistant", "x"))}, "turn 1 contains a number, expected text"),
    "image": (
        {"messages": said(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "x"))},
        "turn 1 has a part of type 'image_url'. Allowed: parts of text",
    ),
    "part without text": ({"messages": said(("user", [{"type": "text"}]), ("assistant", "x"))}, "a part of type"),
    "tool calls": (
        {"messages": [MESSAGES[0], {"role": "assistant", "content": "x", "tool_calls": [1]}]},
        "turn 2 has 'tool_calls', which is not supported",
    ),
    "tool calls alone": (
        {"messages": [MESSAGES[0], {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "turn 2 has 'tool_calls'",
    ),
    "image beside text": (
        {"messages": said(("user", [{"type": "text", "text": "x"}, {"type": "image"}]), ("assistant", "x"))},
        "turn 1 has a part of type 'image'. Allowed: parts of text",
    ),
    "reasoning": (
        {"messages": [MESSAGES[0], {"role": "assistant", "content": "x", "reasoning_content": "y"}]},
        "turn 2 has 'reasoning_content', which is not supported",
    ),
    "ends with a user": ({"messages": said(("user", "x"))}, "ends with a turn of 'user', so it has no answer to train"),
    "ends with a tool": (
        {"messages": said(("user", "x"), ("assistant", "y"), ("tool", "z"))}, "ends with a turn of 'tool'",
    ),
    "begins with an answer": (
        {"messages": said(("assistant", "x"), ("user", "y"), ("assistant", "z"))}, "begins with a turn of 'assistant'",
    ),
    "system only": ({"messages": said(("system", "x"))}, "has a system text only"),
    "system then answer": ({"messages": said(("system", "x"), ("assistant", "y"))}, "begins with a turn of"),
    "late system": (
        {"messages": said(("user", "x"), ("assistant", "y"), ("system", "z"), ("user", "x"), ("assistant", "y"))},
        "turn 3 is a system text. Allowed: only as the first turn",
    ),
    "two answers": (
        {"messages": said(("user", "x"), ("assistant", "y"), ("assistant", "z"))}, "turns 2 and 3 are both the assist",
    ),
    "tool": (
        {"messages": said(("user", "x"), ("tool", "y"), ("assistant", "z"))},
        "the base's chat template does not know the role 'tool'",
    ),
    "surrogate": ({"messages": said(("user", "\ud83d"), ("assistant", "x"))}, "turn 1 contains half a surrogate pair"),
}  # fmt: skip
BAD_GEMMA = {
    "system": ({"messages": [{"role": "system", "content": "x"}, *MESSAGES]}, "refuses the conversation .System role"),
    "two users": ({"messages": said(("user", "x"), ("user", "y"), ("assistant", "z"))}, "roles must alternate"),
}  # fmt: skip
OTHERS = [
    (
        {"conversations": "c"},
        {"c": [{"role": "user", "content": "x"}]},
        "turn 1: 'from' is missing. It has content, role",
    ),
    ({"conversations": "c"}, {"c": [{"from": "bot", "value": "x"}]}, "unknown from 'bot'"),
    ({"conversations": "c"}, {"c": [{"from": "gpt", "value": "x"}]}, "begins with a turn of"),
    ({"prompt": "p", "completion": "c"}, {"p": MESSAGES[:1]}, "column 'c': is missing. Set data.completion"),
    ({"prompt": "p", "completion": "c"}, {"p": "x", "c": MESSAGES}, "column 'c' contains turns of user, assistant"),
    ({"prompt": "p", "completion": "c"}, {"p": MESSAGES, "c": "x"}, "turns 2 and 3 are both"),
    ({"prompt": "p", "completion": "c"}, {"p": "x", "c": " "}, "column 'c' is empty"),
    ({"instruction": "i", "output": "o"}, {"i": "x"}, "no column 'o'"),
    ({"instruction": "i", "output": "o"}, {"i": "", "o": "x"}, "column 'i' is empty"),
    (
        {"instruction": "i", "input": "n", "output": "o"},
        {"i": "x", "n": 3, "o": "x"},
        "contains a number, expected text",
    ),
]
CONFIGS = [
    ({"messages": "m", "conversations": "c"}, "'messages' and 'conversations' are both set"),
    ({"messages": "m", "document": "d"}, "'document' and 'messages' are both set"),
    ({"prompt": "p"}, "'completion' is missing. Name the column with the answer"),
    ({"completion": "p"}, "'completion' is set, but 'prompt' is missing"),
    ({"instruction": "p"}, "'output' is missing"),
    ({"input": "p"}, "'input' is set, but 'instruction' is missing"),
]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatml")
    save_chat_base(folder, "chatml")
    return str(folder)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    save_chat_base(folder, "gemma")
    return str(folder)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_for(model, folder, data, **changes):
    return {
        "name": "talks", "model": model, "data": data, "entries": {"lora": {"r": 4}}, "tune": None,
        "baselines": ["base", "few-shot-2", "lead-1", "oracle"],
        "protocol": {"epochs": 1, "batch_size": 4, "max_tokens": 200, "seeds": 1, "precision": "fp32"},
        "generation": {"max_new_tokens": 8}, "output": str(folder / "out"), **changes,
    }  # fmt: skip


def refused(model, folder, columns, row, message):
    good = {"messages": MESSAGES}
    files = {split: written(folder / f"{split}.jsonl", [good, good]) for split in ("validation", "test")}
    files["train"] = written(folder / "train.jsonl", [row] if columns.keys() - {"messages"} else [good, row])
    with pytest.raises(bakeoff.BakeoffError, match=message) as raised:
        plan(config_for(model, folder, files | columns))
    text = str(raised.value)
    assert f"train.jsonl:{1 if columns.keys() - {'messages'} else 2}" in text
    assert "\n" not in text


@pytest.mark.parametrize("row", BAD)
def test_a_row_that_is_no_conversation_is_one_line(row, chatml, tmp_path):
    refused(chatml, tmp_path, {"messages": "messages"}, *BAD[row])


@pytest.mark.parametrize("row", BAD_GEMMA)
def test_a_row_that_the_template_refuses_is_one_line(row, gemma, tmp_path):
    refused(gemma, tmp_path, {"messages": "messages"}, *BAD_GEMMA[row])


@pytest.mark.parametrize(("columns", "row", "message"), OTHERS)
def test_a_row_of_another_form_is_one_line(columns, row, message, chatml, tmp_path):
    refused(chatml, tmp_path, columns, row, message)


@pytest.mark.parametrize(("columns", "message"), CONFIGS)
def test_columns_that_do_not_go_together_are_one_line(columns, message, chatml, tmp_path):
    with pytest.raises(bakeoff.BakeoffError, match=message) as raised:
        plan(config_for(chatml, tmp_path, {"train": "x.jsonl"} | columns))
    assert "\n" not in str(raised.value)


def test_conversations_need_a_chat_template(tiny_model, chatml, tmp_path):
    data = {"train": written(tmp_path / "train.jsonl", [{"messages": MESSAGES}] * 4), "messages": "messages"}
    for model, changes, message in (
        (str(tiny_model), {}, "data.messages: .* has no chat template, which conversations need"),
        (chatml, {"chat": "off"}, "'chat: off' and data.messages are both set"),
        (chatml, {"template": "{{ document }}"}, "'template' and data.messages are both set"),
        (chatml, {"target": "{{ summary }} {{ x }}"}, "'target' and data.messages are both set"),
        (chatml, {"chat": {"user": "A {{ document }}"}}, "'chat.user' and data.messages are both set"),
    ):
        with pytest.raises(bakeoff.BakeoffError, match=message):
            plan(config_for(model, tmp_path, data, **changes))


def talk(number):
    words = [WORDS[(number * 7 + i) % len(WORDS)] for i in range(8)]
    turns = [
        ("user", " ".join(words[:3])),
        ("assistant", words[0]),
        ("user", " ".join(words[3:])),
        ("assistant", words[3]),
    ]
    return turns[2:] if number % 3 == 0 else turns


SHAREGPT = {"user": "human", "assistant": "gpt"}
FORMS = {
    "messages": ({"messages": "messages"}, lambda turns: {"messages": said(*turns)}),
    "parts": (
        {"messages": "messages"},
        lambda turns: {"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in turns]},
    ),
    "json": ({"messages": "messages"}, lambda turns: {"messages": json.dumps(said(*turns))}),
    "sharegpt": (
        {"conversations": "conversations"},
        lambda turns: {"conversations": [{"from": SHAREGPT[r], "value": t} for r, t in turns]},
    ),
    "prompt": (
        {"prompt": "prompt", "completion": "completion"},
        lambda turns: {"prompt": said(*turns[:-1]), "completion": said(turns[-1])},
    ),
}  # fmt: skip


def test_all_forms_give_the_same_rows_and_runs(chatml, tmp_path):
    ids = {}
    for name, (columns, row_of) in FORMS.items():
        rows = [row_of(talk(number)) for number in range(24)]
        data = {"train": written(tmp_path / f"{name}.jsonl", rows), **columns}
        document = plan(config_for(chatml, tmp_path, data))
        ids[name] = (document["data"]["identity"], document["counts"])
    assert len({json.dumps(row) for row in ids.values()}) == 1


def test_alpaca_rows_are_one_question_and_its_answer(chatml, tmp_path):
    rows = [
        {"instruction": f"{WORDS[i]} it", "input": WORDS[i + 1] if i % 2 else "", "output": WORDS[i]} for i in range(24)
    ]
    files = {
        split: written(tmp_path / f"{split}.jsonl", rows[i::3])
        for i, split in enumerate(("train", "validation", "test"))
    }
    results = bakeoff.run(
        config_for(chatml, tmp_path, files | {"instruction": "instruction", "input": "input", "output": "output"}),
        display="none",
    )
    first = next(iter(results.folder.examples("validation")))
    assert first.turns == [["user", f"{rows[1]['instruction']}\n\n{rows[1]['input']}"]]
    assert results.document.status == "done"


def exported(folder, entry, place):
    """Write an adapter with tokenizer and generation config, as `export` does, and return its folder."""
    source = Source(folder, entry.best_run().id)
    write_adapter(source, source.base(), place / "export")
    return str(place / "export")


def test_a_bakeoff_on_conversations_from_data_to_answers(chatml, tmp_path):
    from transformers import AutoTokenizer

    rows = [{"messages": said(*talk(number))} for number in range(40)]
    files = {"train": rows[:24], "validation": rows[24:30], "test": rows[30:]}
    data = {split: written(tmp_path / f"{split}.jsonl", own) for split, own in files.items()} | {"messages": "messages"}
    results = bakeoff.run(config_for(chatml, tmp_path, data), display="none")
    assert results.document.status == "done"
    tokenizer = AutoTokenizer.from_pretrained(chatml)
    train, test = (load_tokens(results.folder.tokens_file(split)) for split in ("train", "test"))
    for row, own in zip(train, files["train"], strict=True):
        whole = tokenizer.apply_chat_template(own["messages"])["input_ids"]
        assert row.prompt + row.target == whole[: len(row)]
        answers = [m["content"] + "<|im_end|>" for m in own["messages"] if m["role"] == "assistant"]
        assert tokenizer.decode([row.target[place] for place in row.trained]) == "".join(answers)
    for row, own in zip(test, files["test"], strict=True):
        assert (
            row.prompt == tokenizer.apply_chat_template(own["messages"][:-1], add_generation_prompt=True)["input_ids"]
        )
        assert not row.gaps
    entry = results.entry("lora")
    asked = [row["messages"][:-1] for row in files["test"]]
    scored = [row["output"] for row in entry.predictions()]
    assert entry.load().generate([{"messages": turns} for turns in asked]) == scored
    assert entry.load().generate(asked) == scored
    assert entry.load().generate(["", asked[0][0]["content"]])[0] == ""
    lines = "".join(json.dumps({"messages": turns}) + "\n" for turns in asked)
    done = CliRunner().invoke(main, ["generate", str(results.folder.path), "--rows", "--json"], input=lines)
    assert [row["output"] for row in json.loads(done.stdout)] == scored
    done = CliRunner().invoke(
        main, ["generate", str(results.folder.path), "--rows"], input=json.dumps({"messages": []})
    )
    assert done.exit_code == 2
    assert "generate: document 1: column 'messages' contains an empty list" in done.stderr
    with pytest.raises(DataError, match="generate: document 1: the conversation ends with an answer"):
        entry.load().generate([files["test"][0]["messages"]])
    questions = [turns[-1]["content"] for turns in asked]
    found = read_back(
        str(results.folder.path), entry.best_run().id, "peft", exported(results.folder, entry, tmp_path), None, "cpu"
    )
    assert found["outputs"] == scored
    assert (found["prompts"], found["whole"], found["ends"]) == (10, 10, True)
    lead = results.folder.run(results.document.baselines["lead-1"].runs[0]).predictions()
    assert [row.output for row in lead] == questions


def test_rows_that_the_template_refuses_can_be_dropped(gemma, tmp_path):
    rows = [{"messages": said(*talk(number))} for number in range(24)]
    rows[3] = {"messages": [{"role": "system", "content": "x"}, *rows[3]["messages"]]}
    data = {"train": written(tmp_path / "train.jsonl", rows), "messages": "messages", "unusable": "drop"}
    findings = plan(config_for(gemma, tmp_path, data))["data"]["findings"]
    assert any("1 of 24 (4.2%) rows dropped: 1 chat template (at 4)" in line for line in findings)


def test_few_shot_examples_are_turns_before_a_conversation():
    form = form_with("chatml")
    shots = [Example("s", "One?", "Uno.", turns=(("user", "Zero?"), ("assistant", "Nil."), ("user", "One?")))]
    rows = list(encode([TALKS], form.tested(), 300, 10, "data.test"))
    around = around_shots({"test": rows}, [TALKS], shots, [[0]], form, "")
    (made,) = prompted_rows(rows, around, form, 300, 10)
    turns = (("user", "One?"), ("assistant", "Uno."), *TALKS.turns)
    assert made.prompt == theirs(form, Example("", "", "", turns=turns), add_generation_prompt=True)
    assert made.target == rows[0].target
    with pytest.raises(NoRoomError, match="context of 60 tokens is too short"):
        prompted_rows(rows, around_shots({"test": rows}, [TALKS], shots, [[0]], form, ""), form, 60, 10)


def test_few_shot_leaves_out_the_turns_that_a_row_leaves_out():
    turns = [turn for n in range(9) for turn in (("user", f"Question {n}?"), ("assistant", f"Answer {n}."))]
    example, form = Example("1", "Last?", "Yes.", turns=(*turns, ("user", "Last?"))), form_with("chatml")
    rows = list(encode([example], form.tested(), 120, 10, "data.test"))
    assert rows[0].cut > 0
    around = around_shots({"test": rows}, [example], [Example("s", "One?", "Uno.")], [[0]], form, "")
    (made,) = prompted_rows(rows, around, form, 500, 10)
    text, plain = form.tokenizer.decode(made.prompt), form.tokenizer.decode(rows[0].prompt)
    assert [text.count(f"Question {n}?") for n in range(9)] == [plain.count(f"Question {n}?") for n in range(9)]


def test_which_answers_are_trained_is_part_of_a_run(chatml, tmp_path):
    data = {
        "train": written(tmp_path / "t.jsonl", [{"messages": said(*talk(n))} for n in range(24)]),
        "messages": "messages",
    }
    both, last = (plan(config_for(chatml, tmp_path, data, chat={"train_on": which})) for which in ("all", "last"))
    assert both["chat"] != last["chat"]
    assert both["data_fingerprint"] != last["data_fingerprint"]
    assert both["counts"]["train_tokens"] == last["counts"]["train_tokens"]
    assert both["data"]["splits"]["train"]["target_tokens_mean"] > last["data"]["splits"]["train"]["target_tokens_mean"]
    assert plan(config_for(chatml, tmp_path, data))["chat"] == both["chat"]


def test_an_encoder_decoder_has_no_turns(tmp_path):
    save_chat_base(tmp_path / "t5", "chatml", "t5")
    data = {"train": written(tmp_path / "t.jsonl", [{"document": f"ba {n}", "summary": "ba"} for n in range(24)])}
    assert plan(config_for(str(tmp_path / "t5"), tmp_path, data))["chat"] is None
    with pytest.raises(bakeoff.BakeoffError, match="is an encoder-decoder, which has no turns. Try: chat: off"):
        plan(config_for(str(tmp_path / "t5"), tmp_path, data, chat={}))

"""Exports of an instruct base to llama.cpp, Ollama and vLLM: the chat template travels along, and is compared."""

import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

import bakeoff
from bakeoff.cli.main import main
from bakeoff.config.chat import ChatConfig
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.chat_pieces import added_first, around, pieces_of
from bakeoff.data.examples import Example
from bakeoff.data.token_file import load_tokens
from bakeoff.errors import SetupError
from bakeoff.export import export as exporting
from bakeoff.export import job, llama_cpp
from bakeoff.export.ollama import go_template
from bakeoff.export.prompts import Prompts
from bakeoff.store.checksums import read_mapping
from bakeoff.testing.chats import STYLES, chat_tokenizer, save_chat_base
from tests.conftest import write_splits
from tests.test_conversations import said, talk, written
from tests.test_export import here

ORDERS = [("user",), ("user", "assistant", "user"), ("user", "assistant", "user", "assistant", "user")]
SYSTEM = [("system", *order) for order in ORDERS]
QUICK = {"tune": None, "baselines": ["base"], "entries": {"lora": {"r": 2}}, "generation": {"max_new_tokens": 5},
         "protocol": {"epochs": 1, "max_tokens": 120, "seeds": 1, "precision": "fp32"}}  # fmt: skip


def rendered(template, turns):
    """Render what of Go's templates a Modelfile of ours uses."""
    begin, loop, ask = re.fullmatch(r"(.*?){{ range .Messages }}(.*){{ end }}(.*?)", template, re.DOTALL).groups()
    cases = dict(re.findall(r'{{ if eq .Role "(\w+)" }}(.*?){{ end }}', loop, re.DOTALL))
    return begin + "".join(cases[role].replace("{{ .Content }}", content) for role, content in turns) + ask


@pytest.mark.parametrize("style", STYLES)
def test_the_texts_around_turns_are_those_of_the_template(style):
    form = ChatForm(chat_tokenizer(style), ChatConfig())
    pieces = pieces_of(form.renderer, ORDERS)
    go = go_template("", Prompts([], [], None, pieces))
    for order in ORDERS:
        turns = [(role, f"{{{{ {role} }}}}\n{number}") for number, role in enumerate(order)]
        assert pieces.text(turns) == form.renderer.text(turns, True) == rendered(go, turns)
    texts = [pieces.begin, pieces.ask, *sum(pieces.roles.values(), ())]
    assert all(text.count("<") == text.count(">") for text in texts)  # no token is divided
    with_system = pieces_of(form.renderer, SYSTEM)
    assert (with_system is None) is (style in ("gemma", "mistral"))  # mistral writes it into the user's first turn
    for order in SYSTEM if with_system else ():
        turns = [(role, f"text {number}") for number, role in enumerate(order)]
        assert with_system.text(turns) == form.renderer.text(turns, True)
    assert pieces_of(form.renderer, [("user", "tool", "assistant", "user")]) is None


@pytest.mark.parametrize("style", STYLES)
def test_the_texts_around_a_document_are_those_of_its_prompt(style):
    system = {"system": "Be {brief}."} if style != "gemma" else {}
    form = ChatForm(chat_tokenizer(style), ChatConfig(user="A {{ document }} B", **system))
    assert form.tokenizer.decode(form.prompt(Example("1", "the hen", ""))) == "the hen".join(around(form))


def test_what_ollama_cannot_write_is_refused():
    with pytest.raises(SetupError, match=r"not write the same texts around all turns of a role.*Try: --to gguf"):
        go_template("", Prompts([], [], None, None))


class Stand:
    """A llama.cpp that tokenizes and renders as the exported folder does; its outputs are those of the evaluation."""

    def __init__(self, results):
        rows = load_tokens(results.folder.tokens_file("test"))
        texts = [row["output"] for row in results.entry("lora").predictions()]
        self.outputs = {json.dumps(row.prompt): text for row, text in zip(rows, texts, strict=True)}
        self.ends, self.asked, self.spoil = {*results.folder.plan().chat.ends}, [], lambda text: text

    def convert(self, programs, model, out, how):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.first = added_first(self.tokenizer)
        out.write_text("a model")

    def answer(self, path, asked):
        if path == "/apply-template":
            options = {"tokenize": False, **asked.get("chat_template_kwargs", {})}
            self.asked.append(asked["messages"])
            text = self.tokenizer.apply_chat_template(asked["messages"], add_generation_prompt=True, **options)
            return {"prompt": self.spoil(text.removeprefix(self.first))}
        if path == "/tokenize":
            text = (self.first if asked["add_special"] else "") + asked["content"]
            return {"tokens": self.tokenizer(text, add_special_tokens=False)["input_ids"]}
        if "logit_bias" in asked:
            return {"content": "", "stop_type": "eos" if asked["logit_bias"][0][0] in self.ends else "limit"}
        return {"content": self.outputs[json.dumps(asked["prompt"])]}

    @contextmanager
    def serving(self, programs, file, context):
        stand = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(stand.answer(self.path, asked)).encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()


def finished(folder, style, data, **changes):
    save_chat_base(folder / "base", style)
    config = QUICK | {"name": style, "model": str(folder / "base"), "data": data, "output": str(folder / "out")}
    return bakeoff.run(config | changes, display="none")


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conversations")
    files = {
        split: written(folder / f"{split}.jsonl", [{"messages": said(*talk(n))} for n in range(start, start + 8)])
        for start, split in ((0, "train"), (20, "validation"), (40, "test"))
    }
    return finished(folder, "chatml", files | {"messages": "messages"}, chat={"system": "Be brief."})


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    chat = {"user": "Text: {{ document }}\nShort:", "kwargs": {"enable_thinking": False}}
    return finished(folder, "thinking", write_splits(folder), chat=chat)


@pytest.fixture
def results(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def stand(results, monkeypatch):
    """Put a stand-in in the place of llama.cpp, over some results."""
    made = Stand(results)
    monkeypatch.setattr(job, "ask", here)
    monkeypatch.setattr(llama_cpp, "convert", made.convert)
    monkeypatch.setattr(llama_cpp, "serving", made.serving)
    monkeypatch.setattr(exporting, "convert", made.convert)
    monkeypatch.setattr(exporting, "find", lambda _: llama_cpp.LlamaCpp(Path("converter"), Path("server")))
    return made


def export(results, place, to):
    words = ["export", str(results.folder.path), "--entry", "lora", "--to", to, "-o", str(place)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.stderr, read_mapping(place / "export.json")["check"], (place / "README.md").read_text()


both = pytest.mark.parametrize("results", ["conversations", "documents"], indirect=True)


@both
def test_llama_cpp_is_asked_for_its_own_rendering(results, stand, tmp_path):
    told, check, card = export(results, tmp_path / "x", "gguf")
    count = check["examples"]
    assert (check["equal"], check["prompts"], check["ends"]) == (count, count, True)
    assert check["whole"] == check["uncut"] == len(stand.asked) > 0
    assert "warning" not in told
    assert "llama-server -m model.gguf --jinja -c 120\ncurl localhost:8080/v1/chat/completions " in card
    kwargs = '"chat_template_kwargs": {"enable_thinking": false}'
    assert (kwargs in card) is (results.document.name == "thinking")


@both
def test_ollama_gets_the_texts_of_the_template(results, stand, tmp_path):
    _, check, card = export(results, tmp_path / "x", "ollama")
    assert (check["prompts"], check["ends"]) == (check["examples"], True)
    assert check["whole"] == check["uncut"] > 0
    assert not stand.asked
    file = (tmp_path / "x/Modelfile").read_text()
    assert file.count("PARAMETER stop ") == len(results.folder.plan().chat.ends)
    if results.document.name == "chatml":
        assert 'SYSTEM """Be brief."""' in file
        assert '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ end }}' in file
        assert "ollama run lora\n" in card
    else:
        assert "SYSTEM" not in file
        assert '"""<|im_start|>user\nText: {{ .Prompt }}\nShort:<|im_end|>\n<|im_start|>assistant\n<think>' in file
        assert "ollama run lora < document.txt" in card


@pytest.mark.parametrize("results", ["conversations"], indirect=True)
def test_another_rendering_or_end_is_noticed(results, stand, tmp_path):
    stand.spoil, stand.ends = lambda text: text.replace("user\n", "user \n"), {0}
    told, check, card = export(results, tmp_path / "x", "gguf")
    assert (check["whole"], check["ends"]) == (0, False)
    assert f"the same, with the prompt tokenized as one text | 0 of {check['uncut']}" in card
    assert "warning: the token that ends an output is not that of training" in told


def test_vllm_is_asked_with_turns_and_all_ends(conversations, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "ask", here)
    told, check, card = export(conversations, tmp_path / "x", "vllm")
    assert "serve it with: vllm serve " in told
    assert check["whole"] == check["uncut"] > 0
    assert (check["prompts"], check["equal"]) == (8, 8)
    assert "curl localhost:8000/v1/chat/completions " in card
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A question"}]
    assert f'"messages": {json.dumps(turns)}' in card
    assert f'"stop_token_ids": {conversations.folder.plan().chat.ends}' in card

"""GGUF and Ollama with stand-ins for llama.cpp's programs: what they are asked, and what is made of their answers.

docs/export.md has what the real programs gave.
"""

import json
import sys

import pytest
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.errors import SetupError
from bakeoff.export import job
from bakeoff.export.ollama import go_template
from bakeoff.store.checksums import read_mapping
from tests.test_export import here

CONVERTER = """
import json, sys
from pathlib import Path
model, out = Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--outfile") + 1])
config = json.loads((model / "config.json").read_text())
if "n_ctx" not in config:
    sys.exit("KeyError: 'n_ctx'")
if Path(__file__).with_name("refuse").exists():
    sys.exit("INFO\\nNotImplementedError: BPE pre-tokenizer was not recognized")
kind = sys.argv[sys.argv.index("--outtype") + 1] if "--outtype" in sys.argv else "vocabulary"
if kind != "vocabulary" and not (model / "model.safetensors").exists():
    sys.exit("no weights")
vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
out.write_text(json.dumps({"kind": kind, "vocabulary": vocabulary}))
"""
SERVER = """
import json, re, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
here = Path(__file__).parent
if (here / "broken").exists():
    sys.exit("error: cannot load the model")
words = json.loads(Path(given["-m"]).read_text())["vocabulary"]
answers = json.loads((here / "answers.json").read_text())
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say({"status": "ok"} if self.path == "/health" else {})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            found = re.findall(r"<\\|endoftext\\|>|\\w+|[^\\w\\s]", asked["content"])
            return self.say({"tokens": [words.get(word, 1) for word in found]})
        assert (asked["temperature"], asked["cache_prompt"]) == (0, False)
        if "logit_bias" in asked:
            return self.say({"content": "", "stop_type": "eos" if asked["logit_bias"][0][0] == 0 else "limit"})
        self.say({"content": " " + answers[json.dumps(asked["prompt"])]})
    def say(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def programs(shared, tmp_path, monkeypatch):
    """A folder that looks like llama.cpp's; its server gives the outputs of the evaluation of the lora."""
    monkeypatch.setattr(job, "ask", here)
    folder = tmp_path / "llama.cpp"
    (folder / "build/bin").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER)
    server = folder / "build/bin/llama-server"
    server.write_text(f"#!{sys.executable}\n{SERVER}")
    server.chmod(0o755)
    from bakeoff.data.token_file import load_tokens

    rows = load_tokens(shared[1].folder.tokens_file("test"))
    outputs = [row["output"] for row in shared[1].entry("lora").predictions()]
    answers = {json.dumps(row.prompt): text for row, text in zip(rows, outputs, strict=True)}
    (server.parent / "answers.json").write_text(json.dumps(answers))
    return folder


def export(shared, *options, to="gguf", entry="lora"):
    words = ["export", str(shared[1].folder.path), "--entry", entry, "--to", to]
    done = CliRunner().invoke(main, [*words, *map(str, options)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_a_gguf_is_made_run_and_compared(shared, programs, tmp_path):
    place = tmp_path / "out/x"
    done = export(shared, "-o", place, "--llama-cpp", programs, "--dtype", "fp16")
    assert done.exit_code == 0, done.output
    assert sorted(f.name for f in place.iterdir()) == ["README.md", "export.json", "model.gguf"]
    assert json.loads((place / "model.gguf").read_text())["kind"] == "f16"
    told = read_mapping(place / "export.json")["check"]
    assert (told["equal"], told["prompts"], told["ends"], told["loss"]) == (10, 10, True, None)
    card = (place / "README.md").read_text()
    assert "library_name: gguf" in card
    assert "read back by | llama.cpp's server" in card
    assert "not measured" in card


def test_an_answer_that_differs_is_counted(shared, programs, tmp_path):
    file = programs / "build/bin/answers.json"
    answers = json.loads(file.read_text())
    file.write_text(json.dumps(dict.fromkeys(answers, "something else")))
    export(shared, "-o", tmp_path / "x", "--llama-cpp", programs)
    assert read_mapping(tmp_path / "x/export.json")["check"]["equal"] == 0


def test_ollama_has_the_template_and_the_end_of_training(shared, programs, tmp_path):
    assert export(shared, "-o", tmp_path / "x", "--llama-cpp", programs, "--no-check", to="ollama").exit_code == 0
    text = (tmp_path / "x/Modelfile").read_text()
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ .Prompt }}\nTL;DR:"""\nPARAMETER temperature 0\n')
    assert 'PARAMETER stop "<|endoftext|>"' in text
    assert f"PARAMETER num_predict {shared[1].folder.plan().output_tokens}\n" in text
    assert go_template("a {{ '{{' }} b {{ document }} c", None) == 'a {{ "{{" }} b {{ .Prompt }} c'
    with pytest.raises(SetupError, match="cannot have three quotes"):
        go_template('"""{{ document }}', None)


def refused(shared, tmp_path, *options, **more):
    done = export(shared, "-o", tmp_path / "out/x", *options, **more)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("entry: ")]
    assert (done.exit_code, len(lines)) == (2, 1), done.output
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
    return lines[0]


def test_what_llama_cpp_cannot_do_is_one_line(shared, programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "convert_hf_to_gguf.py is not on PATH. Try: git clone " in refused(shared, tmp_path)
    assert f"is not in {tmp_path}/no" in refused(shared, tmp_path, "--llama-cpp", tmp_path / "no")
    words = ("--llama-cpp", programs)
    line = refused(shared, tmp_path, *words, "--dtype", "q4")
    assert "--dtype q4: Allowed: fp32, bf16, fp16, q8_0" in line
    assert "its 4 virtual tokens are not weights" in refused(shared, tmp_path, *words, entry="prompt_tuning")
    (programs / "build/bin/broken").touch()
    assert "server cannot run the file (error: cannot load the model)" in refused(shared, tmp_path, *words)
    (programs / "build/bin/llama-server").unlink()
    done = export(shared, "-o", tmp_path / "y", *words)
    assert done.stderr == "entry: lora\nnot checked\nllama.cpp's llama-server was not found, so the file was not run\n"
    (programs / "refuse").touch()
    monkeypatch.setattr(job, "ask", lambda *_: pytest.fail("the base is refused before anything is made"))
    line = refused(shared, tmp_path, *words)
    assert "refuses a model of type 'gpt2' (NotImplementedError: BPE pre-tokenizer was not recognized)" in line

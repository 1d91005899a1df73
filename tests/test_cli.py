import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from bakeoff.cli.main import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config_file(tiny_config, tmp_path):
    path = tmp_path / "bakeoff.yaml"
    path.write_text(yaml.safe_dump(tiny_config, sort_keys=False))
    return path


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_run_show_report_generate(config_file, tiny_config):
    ran = call("run", config_file, "-s", "protocol.epochs=1", "--display", "plain")
    assert ran.exit_code == 0, ran.output
    assert "lora" in ran.stdout
    folder = tiny_config["output"]
    shown = json.loads(call("show", folder, "--json").stdout)
    assert shown["entries"]["lora"]["metrics"]["test/loss"]["mean"] > 0
    assert "ROUGE-L" in call("show", folder).stdout
    assert call("show", folder, "--prefer", "size").stdout.splitlines()[-1].startswith("Preferring size: ")
    assert Path(call("report", folder).stdout.strip()).name == "report.html"


def test_generate_keeps_every_documents_place_and_says_what_was_cut(shared):
    folder, results = str(shared[1].folder.path), shared[1]
    texts = ["ba be bi bo", " \n", "ba be " * 100]
    room = results.document.max_tokens - results.document.output_tokens

    def generate(text, *options):
        return CliRunner().invoke(main, ["generate", folder, "--entry", "prompt_tuning", *options], input=text)

    out = generate("\f".join(texts))
    assert out.exit_code == 0, out.output
    expected = results.entry("prompt_tuning").load().generate(texts)
    assert expected[1] == ""
    assert expected[0]
    assert out.stdout == "\n\f\n".join(expected) + "\n"
    frame = 4  # TL ; DR :
    assert out.stderr == f"entry: prompt_tuning\ndocument 3 was cut to {room - frame} of 200 tokens\n"
    rows = json.loads(generate("\f".join(texts), "--json").stdout)
    assert rows == [{"document": i, "output": text} for i, text in enumerate(expected, 1)]
    assert generate('{"document": "ba be\u2028bi", "summary": ""}\n', "--rows").exit_code == 0
    for wrong, message in ((b"caf\xe9", "not UTF-8 text"), (" \f ", "nothing on standard input")):
        out = generate(wrong)
        assert out.exit_code == 2
        assert message in out.stderr
        assert len(out.stderr.splitlines()) == 1
    assert results.entry("prompt_tuning").load().generate([]) == []


def test_a_failed_run_exits_with_1(config_file):
    result = call(
        "run",
        config_file,
        "-s",
        "entries.lora.learning_rate=1e30",
        "-s",
        "protocol.clip_norm=null",
        "--display",
        "none",
    )
    assert result.exit_code == 1
    assert "failed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "protocol.epoch=1"], "protocol.epoch: unknown key. Did you mean 'epochs'?"),
        (["-s", "data.document=text"], "train.jsonl:1: no column 'text'"),
        (["-s", "entries.lora.method=lorra"], "unknown method 'lorra'. Did you mean 'lora'?"),
        (["-s", "model=/nowhere/model"], "no such folder"),
        (["-s", "entries.lora.learning_rate=.inf"], "entries.lora.learning_rate: must be a finite number"),
        (["-s", "entries.lora.learning_rate={low: 1e-3, high: .inf}", "-s", "tune=on"], "lora.learning_rate.high: "),
        (["-s", "protocol.weight_decay=.nan"], "protocol.weight_decay: must be a finite number (got nan)"),
        (["-s", "output=/proc/nope/x"], "/proc/nope: No such file or directory. Try: -s output=FOLDER"),
        (["-s", "output=/dev/full/x"], "/dev/full/x: Not a directory"),
        (["-s", "entries.last_layers.blocks=5"], "more than the model's 2"),
    ],
)
def test_mistakes_are_one_line_exit_2_and_write_nothing(config_file, tiny_config, arguments, message):
    result = call("run", config_file, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path(tiny_config["output"]).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "x.yaml", "--workers", "two"], "--workers: 'two' is not a whole number. Try: "),
        (["run", "x.yaml", "--workers", "0"], "--workers: 0 is not in the range x>=1. Try: "),
        (
            ["show", "x", "--prefer", "speed"],
            "--prefer: 'speed' is not one of 'quality', 'memory', 'size', 'time'. Try: ",
        ),
        (["shwo"], "No such command 'shwo'. Did you mean 'show'? Try: "),
        (["run"], "Missing argument 'FILE'. Try: "),
        (["demo", "--full", "--rounds"], "--full and --rounds are two demos. Try one after the other"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"bakeoff: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_what_to_try_can_be_pasted(tmp_path):
    data, folder = tmp_path / "my data.csv", tmp_path / "a run"
    data.write_text("document,summary: x\na: b: c\n")
    folder.mkdir()
    assert call("plan", data).stderr.endswith(f"Try: bakeoff init '{data}'\n")
    assert call("plan", folder).stderr.endswith(f"Try: ls '{folder}'\n")
    (folder / "config.yaml").write_text("")
    assert call("plan", folder).stderr.endswith(f"Try: {folder / 'config.yaml'}\n")
    (tmp_path / "a.json").write_text("")
    assert call("schema", "-o", tmp_path / "a.json").stderr.endswith("Try: -o OTHER.json\n")


def test_a_model_folder_that_is_none(config_file, tmp_path):
    (tmp_path / "empty").mkdir()
    result = call("plan", config_file, "-s", f"model={tmp_path / 'empty'}")
    assert result.exit_code == 2
    assert "not a model folder" in result.stderr


def test_the_studys_counts_without_weights_or_network():
    result = call("plan", ROOT / "recipes/study.yaml", "--json")
    assert result.exit_code == 0, result.output
    entries = json.loads(result.stdout)["entries"]
    assert entries["prompt_tuning"]["trainable_parameters"] == 4_608
    assert entries["last_layers"]["trainable_parameters"] == 45_685_248
    assert entries["lora"]["trainable_parameters"] == 4_718_592
    assert entries["lora"]["total_parameters"] == 129_158_400
    assert round(entries["lora"]["trainable_percent"], 4) == 3.6533


def test_methods_are_described_from_their_classes():
    assert set(json.loads(call("methods", "--json").stdout)) >= {"lora", "last_layers", "prompt_tuning"}
    page = call("methods", "lora").stdout
    assert "lora_alpha" in page
    assert "arxiv.org/abs/2106.09685" in page
    assert call("methods", "lara").exit_code == 2
    assert "token_indices   required" in call("methods", "trainable_tokens").stdout


def test_plan_writes_nothing(config_file, tiny_config):
    result = call("plan", config_file)
    assert result.exit_code == 0
    assert "lora" in result.stdout
    assert not Path(tiny_config["output"]).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("entries.last_layers.blocks=3", "entries.last_layers: blocks: 3 is more than the model's 2"),
        ("entries.lora.target_modules=[q_proj]", "no weight is called 'q_proj'. This model has: c_attn, "),
        ("entries.lora.r=0", "entries.lora.r: "),
        ("entries.prompt_tuning.num_virtual_tokens=60", "60 virtual tokens leave 4 of the model's 64 positions"),
        ("entries.vblora={vector_length: 7}", "entries.vblora: "),
        (
            "entries.lora.target_modules=*.c_attn",
            "entries.lora.target_modules: not a regular expression (nothing to repeat at position 0). Try: a list of "
            "names, as in [q_proj], or '.*q_proj' (got '*.c_attn')",
        ),
        ("entries.lora.target_modules=[ln_f]", "MultiheadAttention.`. This model has: c_attn, c_fc"),
        ("entries.lora.target_modules=[]", "entries.lora.target_modules: names no weight. Try: all-linear, or a list"),
        ("entries.trainable_tokens={}", "trainable_tokens.token_indices: field required: "),
    ],
)
def test_a_plan_says_what_does_not_fit_the_model(config_file, settings, message):
    assert message in refused(config_file, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("entries.lora.r={low: 15, high: 17}", " is more than a weight of shape (48, 16) allows. Try: r: 16"),
        ("entries.ia3={optimizer: [adamw, muon, adamw_8bit, schedule_free]}", "entries.ia3: optimizer: muon is for"),
    ],
)
def test_what_a_plan_refuses_does_not_depend_on_the_number_of_trials(config_file, settings, message):
    for trials in (1, 2):
        assert message in refused(config_file, settings, f"tune.trials={trials}")


def refused(config_file, *settings):
    result = call("plan", config_file, *(part for one in settings for part in ("-s", one)))
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_one_of_a_thing_is_not_several(config_file, tiny_config):
    Path(tiny_config["data"]["test"]).write_text('{"document": "ba be bi bo", "summary": "ba"}\n')
    assert "test: 1 example, 0.0% of documents cut" in call("plan", config_file).stdout


def test_a_script_without_a_main_guard_can_call_run(config_file, tiny_config, tmp_path):
    config_file.write_text(yaml.safe_dump({**tiny_config, "entries": {"lora": {"r": 2}}, "baselines": ["base"]}))
    script = tmp_path / "script.py"
    script.write_text(f"import bakeoff\nprint('started')\nbakeoff.run({str(config_file)!r}, display='none')\n")
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert out == "started\n"


def python(*arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "bakeoff", *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)  # fmt: skip


def test_a_reader_that_leaves_ends_it_without_a_word(shared):
    for options in (["--json"], []):
        reader = python("show", shared[1].folder.path, *options)
        reader.stdout.close()
        assert reader.wait() == 141
        assert reader.stderr.read() == b""
        reader.stderr.close()


def test_a_terminal_without_a_character_shows_another(shared):
    out, err = python("show", shared[1].folder.path, env={**os.environ, "PYTHONIOENCODING": "ascii"}).communicate()
    assert b"lora" in out
    assert b"?" in out  # the dash of a baseline that trains nothing
    assert err == b""


def test_an_interrupt_while_the_command_line_is_read_is_one_line(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "make_context", interrupted)
    done = CliRunner().invoke(main, ["methods"])
    assert (done.exit_code, done.stderr.strip()) == (130, "bakeoff: interrupted")

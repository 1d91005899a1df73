"""Cells of the capability matrix are true, and the page shows what the probe finds."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.compute.decoding.conformance import conforming, virtual_tokens_differ
from bakeoff.compute.decoding.greedy import rows_at_once
from bakeoff.compute.model.base import adapt
from bakeoff.compute.training.gradient_reach import adapted_shape
from bakeoff.errors import SetupError
from bakeoff.methods import build_method, method_names
from bakeoff.testing import FAMILIES, family_base
from bakeoff.testing.architectures import (
    architecture_row,
    architecture_rows,
    architectures,
    architectures_page,
    isolated_row,
)
from bakeoff.testing.matrix import probe
from bakeoff.testing.tiny_configs import tiny_base, tiny_shape

PAGE = Path(__file__).parent.parent / "docs/matrix.md"
SAMPLE = [
    ("bias", "gpt2", None),
    ("bias", "llama", "bias: LlamaForCausalLM has no biases"),
    ("olora", "gpt2", "olora: PEFT cannot start from weights stored as GPT-2 stores them"),
    ("olora", "pegasus", None),
    ("adalora", "t5", None),
    ("vera", "gemma3", None),
    ("ia3", "granite", None),
]


@pytest.mark.parametrize(("name", "family", "reason"), SAMPLE)
def test_a_sample_of_cells_is_true_and_on_the_page(name, family, reason):
    assert probe(name, family) == reason
    page = PAGE.read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    cell = row.split("|")[2 + FAMILIES.index(family)].strip()
    assert cell == ("yes" if reason is None else "no")


def test_the_page_has_every_method_and_no_failure():
    page = PAGE.read_text().partition("## Further architectures")[0]
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert rows == method_names()
    assert "fails" not in page


def test_the_command_prints_what_was_probed(monkeypatch):
    monkeypatch.setattr("bakeoff.testing.matrix.FAMILIES", ("gpt2", "llama"))
    monkeypatch.setattr("bakeoff.testing.matrix.method_names", lambda: ["bias"])
    out = CliRunner().invoke(main, ["methods", "--matrix", "--json"]).stdout
    packed = {"qwen2 nf4": None, "qwen2 int8": None}
    assert json.loads(out) == {"bias": {"gpt2": None, "llama": "bias: LlamaForCausalLM has no biases", **packed}}
    out = CliRunner().invoke(main, ["methods", "--matrix"]).stdout
    assert "| bias | yes | no |" in out
    assert "- bias, not with llama: LlamaForCausalLM has no biases" in out
    out = CliRunner().invoke(main, ["methods", "olora", "--matrix"]).stdout
    assert out.splitlines()[2] == "| olora | no | yes | yes | yes |"
    assert CliRunner().invoke(main, ["methods", "lara", "--matrix"]).exit_code == 2


ROWS = {
    "llama": ("with its cache", set()),
    "mamba": ("without its cache", {"lora", "ia3", "prefix_tuning"}),
    "opt": ("with its cache", set()),  # of projected embeddings
    "mixtral": ("with its cache", set()),
    "switch_transformers": ("with its cache", {"ia3", "prefix_tuning"}),  # its output holds router logits
    "nllb-moe": ("with its cache", {"ia3"}),  # and so does this one's
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_sample_of_architectures_is_as_the_page_says(kind):
    row = architecture_row(kind, dict(architectures())[kind])
    refused = {name for name, reason in row["methods"].items() if reason}
    assert (row["decodes"], refused, row["generate"]) == (*ROWS[kind], True)
    table = architectures_page({kind: row}).splitlines()
    line = next(text for text in table if text.startswith(f"| {kind} |"))
    assert line in PAGE.read_text().splitlines()
    assert "\n".join(table[:9]) in PAGE.read_text()


@pytest.mark.parametrize(
    ("work", "seconds", "note"),
    [
        (lambda *_: time.sleep(600), 3, "takes more than 3 s"),
        (lambda *_: os._exit(7), 300, "its process ended with status 7"),
        (lambda *_: torch.ones(2**30), 300, "takes more than 2 GiB of memory"),
    ],
)
def test_an_architecture_that_hangs_or_ends_its_process_is_a_row(monkeypatch, work, seconds, note):
    monkeypatch.setattr("bakeoff.testing.architectures.architecture_row", work)
    threads = torch.get_num_threads()
    row = isolated_row("llama", None, seconds=seconds, memory=2 * 2**30)
    assert row == {"model": None, "note": note}
    assert f"- llama: {note}" in architectures_page({"llama": row}).splitlines()
    assert torch.get_num_threads() == threads


def test_an_interrupted_run_resumes_from_its_file(monkeypatch, tmp_path):
    tried, said = [], []

    def row(kind, _):
        tried.append(kind)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return {"model": None, "note": kind}

    monkeypatch.setattr("bakeoff.testing.architectures.isolated_row", row)
    kinds, file = {"a": None, "b": None}, tmp_path / "rows"
    with pytest.raises(KeyboardInterrupt):
        architecture_rows(kinds, file, said.append)
    rows = architecture_rows(kinds, file, said.append)
    assert rows == {kind: {"model": None, "note": kind} for kind in kinds}
    assert tried == ["a", "b", "b"]
    assert said[-1] == "2 of 2: b"


@pytest.mark.parametrize("text", ["one line without an end", '{"document": "a"}\n', '{"kind": "a", "row": 1}\n', "\n"])
def test_rows_are_kept_in_no_file_of_a_users(monkeypatch, tmp_path, text):
    monkeypatch.setattr("bakeoff.testing.architectures.isolated_row", lambda *_: {"model": None, "note": ""})
    file = tmp_path / "mine"
    file.write_text(text)
    with pytest.raises(SetupError, match=f"--keep: {file}: exists, and was not written by --keep"):
        architecture_rows({"a": None}, file, print)
    assert file.read_text() == text


def test_rows_that_cannot_be_kept_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("bakeoff.testing.architectures.isolated_row", lambda *_: {"model": None, "note": ""})
    (tmp_path / "mine").write_text("mine")
    for place in ("mine/rows", "."):
        done = CliRunner().invoke(main, ["methods", "--architectures", "--keep", str(tmp_path / place)])
        assert done.exit_code == 2, done.output
        assert done.stderr.splitlines()[-1].startswith(f"bakeoff: {tmp_path}")


@pytest.mark.parametrize("given", [["--keep", "rows"], ["--matrix", "--keep", "rows"], ["lora", "--architectures"]])
def test_options_that_would_have_no_effect_are_one_line(given):
    done = CliRunner().invoke(main, ["methods", *given])
    assert done.exit_code == 2
    assert "Try: without" in done.stderr


@pytest.mark.parametrize("kind", ["codegen", "deepseek_v2", "zamba2", "mimo_v2_flash", "bailing_hybrid", "emu3"])
def test_a_tiny_config_fits_together(kind):
    base, _ = tiny_base(kind, dict(architectures())[kind])
    assert conforming(base)[0].model is base.model
    assert rows_at_once(base, 100) >= 1


def test_a_base_whose_blocks_have_heads_of_several_widths_is_decoded():
    base, _ = tiny_base("gemma4_text", dict(architectures())["gemma4_text"])
    assert rows_at_once(base, 100) == 64


@pytest.mark.parametrize("kind", ["biogpt", "led", "m2m_100", "nllb-moe"])
def test_a_plan_takes_a_prefix_of_a_base_that_looks_into_values(kind):
    factory = dict(architectures())[kind]
    base, config = tiny_base(kind, factory)
    method = build_method("prefix_tuning", {"method": "prefix_tuning", "num_virtual_tokens": 3})
    planned = {n: p.shape for n, p in adapted_shape(tiny_shape(config, factory), method).named_parameters()}
    assert planned == {n: p.shape for n, p in method.adapt(base.model, None).named_parameters()}


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("family", ["opt", "gemma3", "gpt2", "granite", "bart", "t5"])
def test_virtual_tokens_that_are_words_are_read_as_those_words(family, name):
    base = family_base(family)
    method = build_method(name, {"method": name, "num_virtual_tokens": 3, "prompt_tuning_init_text": "w5 w6"})
    adapted = adapt(base, method).eval()
    assert virtual_tokens_differ(base, adapted, [5, 6, 5]) is None
    if name == "prompt_tuning":
        assert virtual_tokens_differ(base, adapted, [5, 6, 7]) == "losses"


def test_words_that_are_scaled_only_where_they_are_looked_up_are_found(monkeypatch):
    monkeypatch.setattr("bakeoff.methods.soft_prompts.SoftPrompt.check_scale", lambda *_: None)
    base = family_base("pegasus")
    method = build_method("prompt_tuning", {"method": "prompt_tuning", "prompt_tuning_init_text": "w5"})
    assert virtual_tokens_differ(base, adapt(base, method).eval(), [5] * 6) == "losses"

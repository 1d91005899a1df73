"""Cells of the capability matrix are true, and the page shows what the probe finds."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bakeoff.cli import main
from bakeoff.methods import method_names
from bakeoff.testing import FAMILIES
from bakeoff.testing.architectures import architecture_row, architectures, architectures_page
from bakeoff.testing.matrix import probe

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
    assert json.loads(out) == {"bias": {"gpt2": None, "llama": "bias: LlamaForCausalLM has no biases"}}
    out = CliRunner().invoke(main, ["methods", "--matrix"]).stdout
    assert "| bias | yes | no |" in out
    assert "- bias, not with llama: LlamaForCausalLM has no biases" in out
    out = CliRunner().invoke(main, ["methods", "olora", "--matrix"]).stdout
    assert out.splitlines()[2] == "| olora | no | yes |"
    assert CliRunner().invoke(main, ["methods", "lara", "--matrix"]).exit_code == 2


ROWS = {
    "llama": ("with its cache", set()),
    "mamba": ("without its cache", {"lora", "ia3", "prefix_tuning"}),
    "opt": ("with its cache", set()),  # of projected embeddings
    "mixtral": ("with its cache", set()),
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

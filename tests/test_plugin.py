"""A method of another package: installed by pip, found by its entry point, run, held to the contract."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from bakeoff.methods import INSTALLED, method, method_class
from bakeoff.methods.reference import describe_methods
from bakeoff.testing import CHECKS, check_method
from tests.conftest import make_rows, write_rows

EXAMPLE = Path(__file__).parent.parent / "docs/example_method"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of its own that pip has put the example package into, without a network."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "head_bias.py"):  # a copy, because building leaves files beside the sources
        (source / name).write_text((EXAMPLE / name).read_text())
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)], check=True)
    return target


def bakeoff(installed, *arguments):
    """What the command line prints in a process that has the example installed."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "bakeoff", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_bakeoff_runs_an_installed_method(installed, tiny_model, tmp_path):
    config = {
        "model": str(tiny_model),
        "data": {s: str(write_rows(tmp_path / f"{s}.jsonl", make_rows(8, i))) for i, s in
                 enumerate(("train", "validation", "test"))},
        "entries": {"ours": {"method": "head_bias"}},
        "tune": None,
        "baselines": ["base"],
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1},
        "output": str(tmp_path / "out"),
    }  # fmt: skip
    (tmp_path / "bakeoff.yaml").write_text(yaml.safe_dump(config))
    assert "head_bias" in bakeoff(installed, "methods")
    bakeoff(installed, "run", str(tmp_path / "bakeoff.yaml"), "--display", "none")
    (result,) = [json.loads(file.read_text()) for file in tmp_path.glob("out/runs/ours-*/result.json")]
    assert result["status"] == "done"
    vocabulary = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    assert result["trainable_parameters"] == vocabulary
    assert result["checks"]["only_intended_moved"]
    assert result["checks"]["reloads_to_same_loss"]


@pytest.mark.parametrize(("family", "refused"), [("gpt2", False), ("t5", False), ("phi", True)])
def test_the_contract_holds_an_installed_method(installed, monkeypatch, family, refused):
    monkeypatch.setattr(method, "_REGISTER", {**method._REGISTER})
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.delitem(sys.modules, "head_bias", raising=False)
    (entry_point,) = [e for e in entry_points(group="bakeoff.methods") if e.name == "head_bias"]
    entry_point.load()
    refusal = check_method("head_bias", family)
    assert refusal == (
        "head_bias: the head of PhiForCausalLM has a bias already. Try the method bias" if refused else None
    )


def test_the_page_shows_the_example_the_checks_and_every_method_as_they_are():
    page = (EXAMPLE.parent / "methods.md").read_text()
    code = (EXAMPLE / "head_bias.py").read_text()
    assert code in page
    assert len(code.splitlines()) < 40
    assert describe_methods() in page, "docs/methods.md: its last block is what `bakeoff methods` prints"
    for name, check in CHECKS.items():
        assert f"- `{name}`: {check.__doc__}" in page


def test_the_page_says_where_the_range_of_every_method_comes_from():
    section = (EXAMPLE.parent / "methods.md").read_text().partition("## Where the search ranges come from\n")[2]
    rows = [line.strip("| ").split("|") for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    ranges = {name.strip(): span.strip() for name, span, *_ in rows[1:]}
    spans = {name: method_class(name).search_range.get("learning_rate") for name in INSTALLED}
    assert ranges == {n: f"{s[0]:g} to {s[1]:g}" if s else "those of the config's own method" for n, s in spans.items()}

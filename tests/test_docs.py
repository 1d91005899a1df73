import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bakeoff.cli.main import main
from bakeoff.config.grid import load_grid
from bakeoff.tuning.entries import read_entries

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page, language):
    """Return the fenced blocks of a page in a language; "" is of those that name none."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.M | re.S)


def test_the_reference_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, text in reference.pages().items():
        assert (ROOT / "docs/reference" / name).read_text() == text, "run: python tools/reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_code_are_of_this_version(page):
    for block in blocks(page, ""):
        for command in re.findall(r"^(?:\.venv/bin/)?bakeoff ([a-z]+)", block, flags=re.M):
            assert command in main.commands
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_piece_of_a_config_is_one(page, tmp_path):
    for block in blocks(page, "yaml"):
        raw = {"entries": ["lora"], "data": {"source": "docstrings"}} | yaml.safe_load(block)
        if not {"source", "train"} & {*raw["data"]}:
            raw["data"]["train"] = "train.csv"
        (tmp_path / "bakeoff.yaml").write_text(yaml.safe_dump(raw))
        for cell in load_grid(tmp_path / "bakeoff.yaml").cells:
            assert read_entries(cell.config)


# What each rule that the code cites is about, in the page's words.
CITED = {
    "1": ("examples", "length"), "2": ("tuning", "selection", "stopping"), "3": ("convergence",),
    "4": ("precision", "frozen parts"),
    "5": ("decoding",), "6": ("baselines",), "7": ("loss",), "8": ("ROUGE",), "9": ("uncertainty",), "11": ("checks",),
    "12": ("over-fitting, forgetting",),
}  # fmt: skip


def test_protocol_rules_that_the_code_cites_are_the_pages():
    page = (ROOT / "docs/protocol.md").read_text()
    rules = re.findall(r"^\| (\d+) \| ([^|]+) \|", page, flags=re.M)
    for number, names in CITED.items():
        assert set(names) <= {name for found, name in rules if found == number}
    cited = {n for file in (ROOT / "src").rglob("*.py") for n in re.findall(r"protocol rule (\d+)", file.read_text())}
    assert cited
    assert cited <= set(CITED)
    assert set(re.findall(r"^## (\d+)\. ", page, flags=re.M)) <= {number for number, _ in rules}


def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        text = (tmp_path / "site" / page.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
        loaded = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="(https?:[^"]+)', text)
        assert not loaded, "a page loads something from elsewhere"

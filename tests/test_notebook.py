"""Results in a notebook: what it shows, and the example notebook run from its first cell to its last."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bakeoff.report.notebook import notebook_html
from tests.test_report import HOSTILE, Page

EXAMPLE = Path(__file__).parent.parent / "examples/results.ipynb"


def test_results_are_a_table_with_charts_that_needs_no_style_or_script(shared):
    html = shared[1]._repr_html_()
    page = Page(html)
    assert [re.sub(r"\W*(\w.*?)\n.*", r"\1", row[0], flags=re.S) for row in page.rows[1:]] == [
        *shared[1].entries, *shared[1].document.baselines,
    ]  # fmt: skip
    assert page.tags.count("svg") == 2
    assert page.loads == []
    assert not {"script", "style"} & set(page.tags)
    assert "var(" not in html
    assert shared[1].verdict.split(" (")[0] in html


def test_failures_and_markup_are_text(shared):
    row = shared[1].entries["lora"].model_copy(update={"status": "failed", "error": HOSTILE})
    entries = shared[1].entries | {"lora": row}
    html = notebook_html(shared[1].document.model_copy(update={"name": HOSTILE, "entries": entries}))
    assert "script" not in Page(html).tags
    assert "failed: &lt;script&gt;" in html


# A kernel's sockets are closed by its own process; what is left of them here is none of ours to close.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_example_notebook_runs(shared, tmp_path, monkeypatch):
    shutil.copytree(shared[1].folder.path, tmp_path / "bakeoffs/demo")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(EXAMPLE, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = next(o["data"] for o in outputs if "<svg" in o.get("data", {}).get("text/html", ""))
    assert shared[1].document.verdict.best in shown["text/html"]
    last = next(o["data"]["text/plain"] for o in notebook.cells[-1]["outputs"] if "data" in o)
    assert last.startswith("[")
    assert last.count("'") + last.count('"') >= 4

"""The way of the data: imports lead down the rooms, in no circle, and torch is behind one border."""

import ast
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bakeoff

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))
from rooms import circles, graph_of, modules, room  # noqa: E402

SOURCE = ROOT / "src/bakeoff"
# From the bottom up: a room imports those before it, in functions too.
ROOMS = [
    "errors", "child_process", "interrupts", "collector", "store", "config", "library_errors", "model_files", "hub",
    "data", "methods", "tuning", "scoring", "compute", "analysis", "progress", "driver", "report", "export", "results",
    "reporting", "running", "grids", "judging", "serving", "tasting", "api", "testing", "cli", "__main__",
]  # fmt: skip
TORCH = ("torch", "transformers", "peft", "accelerate")
BEHIND = ("compute", "testing")  # the rooms whose modules may load them when they are imported
TERMINAL = ("rich", "click", "altair", "vl_convert")


@functools.cache
def external(path: Path) -> set[str]:
    """Return which libraries a module loads when it is imported."""
    nodes = ast.parse(path.read_text()).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def loaded_by(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Return every module of ours that is loaded where this one is imported, its packages and itself among them."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*graph.get(name, ()), name.rpartition(".")[0]]
    return found - {""}


def test_rooms_import_rooms_below_them_only():
    for module, others in graph_of(SOURCE, "bakeoff").items():
        for other in others:
            above, below = (ROOMS.index(name.partition(".")[0]) for name in (module, other))
            assert below <= above, f"{module} imports {other}, whose room is above its own"


@pytest.mark.parametrize(("folder", "package"), [("src/bakeoff", "bakeoff"), ("benchmarks", ""), ("tools", "")])
def test_no_modules_and_no_rooms_import_each_other_in_a_circle(folder, package):
    graph = graph_of(ROOT / folder, package)
    assert circles(graph) == []
    between: dict[str, set[str]] = {}
    for module, others in graph.items():
        here = room(module, ROOT / folder)
        between.setdefault(here, set()).update({room(other, ROOT / folder) for other in others} - {here})
    assert circles(between) == []


def test_torch_is_loaded_behind_the_border_alone_and_no_terminal_there():
    paths, graph = modules(SOURCE), graph_of(SOURCE, "bakeoff", top_only=True)
    for module in paths:
        libraries = {name for other in loaded_by(module, graph) & paths.keys() for name in external(paths[other])}
        if module.partition(".")[0] in BEHIND:
            assert libraries.isdisjoint(TERMINAL), module
        else:
            assert libraries.isdisjoint(TORCH), f"{module} loads {libraries & set(TORCH)} when it is imported"


def test_a_border_that_is_crossed_through_other_modules_is_noticed():
    paths, graph = modules(SOURCE), graph_of(SOURCE, "bakeoff", top_only=True)
    graph["driver.plan"].add("compute.run.worker")
    assert "torch" in {name for other in loaded_by("api", graph) & paths.keys() for name in external(paths[other])}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_what_scores_again_loads_no_torch():
    """Neither the process that starts such runs, nor the run."""
    paths, graph = modules(SOURCE), graph_of(SOURCE, "bakeoff", top_only=True)
    libraries = {
        name for other in loaded_by("compute.run.scorer", graph) & paths.keys() for name in external(paths[other])
    }
    assert "compute.run.execution" in loaded_by("compute.run.scorer", graph)
    assert libraries.isdisjoint(TORCH)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from bakeoff.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'rich', 'altair'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_finished_results_and_the_api_load_no_library_that_they_do_not_use(shared, tmp_path):
    """Modules are counted, and no seconds: `show` needs a table, the API neither charts nor what scores are made by."""
    heavy = {"torch", "transformers", "scipy.stats", "nltk", "rouge_score", "altair", "vl_convert", "pandas", "pyarrow"}
    show, report = (
        ["show", str(shared[1].folder.path)],
        ["report", str(shutil.copytree(shared[1].folder.path, tmp_path / "o"))],
    )
    command = "from bakeoff.cli.main import main\ntry: main({!r})\nexcept SystemExit: pass"
    for code, forbidden in (
        ("import bakeoff.api", heavy),
        (command.format(show), heavy | {"numpy", "scipy"}),
        (command.format(report), heavy - {"altair", "vl_convert"} | {"bakeoff.driver.plan", "bakeoff.driver.executor"}),
    ):
        code = f"import sys\n{code}\nprint(sorted({forbidden!r} & set(sys.modules)))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.splitlines()[-1] == "[]"


def test_every_public_name_is_there():
    assert [name for name in bakeoff.__all__ if not hasattr(bakeoff, name)] == []

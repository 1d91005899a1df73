"""Imports point down, and the driver's half starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src/bakeoff"
EARLY = {"config.config", "store.run_folder", "data.examples"}
PURE = {"config.sandbox", "config.templates"}
LAYERS = [
    {"errors", "config.yaml", "store.scratch", "store.checksums", "interrupts", "child_process"},
    {
        "store.files",
        "store.lock",
        "foreign",
        "store.content_hash",
        "store.documents",
        "store.events",
        "store.signature",
    },
    {"config.sections"} | PURE,
    EARLY,
    {"driver.trust", "tuning.labels"},
    {"hub"},
    {"data", "methods", "tuning.search"},
    {"tuning.entries", "driver.costs"},
    {"cli.schema"},
    {"cli.init"},
    {"compute.model.kernels", "compute.model.loading"},
    {"compute.model.base", "compute.model.device"},
    {"compute.model.adapter_files"},
    {"compute.model.forward", "compute.model.kv_cache"},
    {"training"},
    {"evaluation"},
    {"compute.run.context", "compute.decoding.summarizer", "driver.environment"},
    {"compute.run.evaluate"},
    {"compute.run.worker", "testing", "compute.run.profile"},
    {"driver.counts"},
    {"driver.plan", "results"},
    {"executors"},
    {"progress.throughput", "store.event_log"},
    {"progress.eta"},
    {"progress.replay"},
    {"progress.estimate"},
    {"progress.display", "report"},
    {"progress.live"},
    {"progress.notebook"},
    {"store.ownership"},
    {"driver.scheduler", "progress.watch", "driver.resume"},
    {"progress.trackers"},
    {"api"},
    {"cli.doctor"},
    {"cli.terminal"},
    {"cli.setup"},
    {"cli.main"},
]
COMPUTE = {
    "data",
    "methods",
    "hub",
    "compute.model.base",
    "compute.model.adapter_files",
    "compute.model.kernels",
    "foreign",
    "store.content_hash",
    "compute.model.loading",
    "compute.model.forward",
    "compute.model.kv_cache",
    "compute.model.device",
    "training",
    "evaluation",
    "compute.run.context",
    "compute.run.evaluate",
    "compute.run.worker",
    "compute.run.profile",
    "compute.decoding.summarizer",
    "testing",
}
DRIVER = {
    "child_process",
    "store.documents",
    "store.events",
    "tuning.entries",
    "driver.resume",
    "store.checksums",
    "store.ownership",
    "store.signature",
    "driver.trust",
    "store.lock",
    "interrupts",
    "driver.costs",
    "progress.estimate",
    "errors",
    "store.files",
    "tuning.search",
    "driver.scheduler",
    "progress.eta",
    "store.event_log",
    "cli.schema",
    "cli.init",
    "cli.doctor",
    "cli.setup",
    "cli.terminal",
    "progress.live",
    "progress.notebook",
    "progress.trackers",
    "progress.watch",
    "config.config",
    "config.yaml",
    "config.sections",
    "driver.counts",
    "store.run_folder",
    "tuning.labels",
    "driver.plan",
    "results",
    "progress.display",
    "report",
    "api",
    "cli.main",
}
TERMINAL = {"rich", "click", "jinja2", "altair", "vl_convert"}


def layer(module: str) -> int:
    found = [i for i, names in enumerate(LAYERS) for n in names if module == n or module.startswith(n + ".")]
    assert found, f"{module} stands in no layer: add it to LAYERS"
    return found[0] if module in EARLY | PURE else found[-1]


def imports(path: Path, top_only: bool) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def modules() -> dict[str, Path]:
    names = {}
    for path in SOURCE.rglob("*.py"):
        name = (
            path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix("__init__").rstrip(".")
        )
        if name:
            names[name] = path
    return names


def test_imports_point_down():
    for name, path in modules().items():
        for imported in imports(path, top_only=True):
            if imported.startswith("bakeoff."):
                inner = imported.removeprefix("bakeoff.")
                assert layer(inner) <= layer(name), f"{name} imports {inner}, which stands above it"


def test_the_compute_half_knows_no_terminal_and_the_driver_half_no_torch():
    for name, path in modules().items():
        room = name.partition(".")[0]
        tops = {i.partition(".")[0] for i in imports(path, top_only=True)}
        if room in COMPUTE:
            assert tops.isdisjoint(TERMINAL), name
        if room in DRIVER:
            assert tops.isdisjoint({"torch", "transformers", "peft"}), name


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from bakeoff.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'rich', 'altair'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_finished_results_and_the_api_load_no_library_that_they_do_not_use(shared):
    """Modules are counted, and no seconds: `show` needs a table, the API neither charts nor what scores are made by."""
    heavy = {"torch", "transformers", "scipy.stats", "nltk", "rouge_score", "altair", "vl_convert", "pandas", "pyarrow"}
    show = f"from bakeoff.cli.main import main\ntry: main(['show', {str(shared[1].folder.path)!r}])\nexcept SystemExit: pass"
    for code, forbidden in (("import bakeoff.api", heavy), (show, heavy | {"numpy", "scipy", "pydantic"})):
        code = f"import sys\n{code}\nprint(sorted({forbidden!r} & set(sys.modules)))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.splitlines()[-1] == "[]"

"""No test hides in a skip: one is skipped only where the machine has not what it needs."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent
ALLOWED = {
    ("test_browser.py", "no Chromium on this machine and none could be installed: apt-get install chromium"),
    ("test_forms.py", "needs ../shared/models/stories260K"),
    ("test_gpu.py", "no GPU here"),
    ("test_gpu.py", "one GPU here"),
    ("test_gpu.py", "this GPU does not multiply bf16"),
    ("test_scale.py", "needs the right to mount a disk"),
    ("test_scale_network.py", "needs the right to make network namespaces"),
    ("test_scale_slurm.py", "needs root and Slurm: apt-get install slurmctld slurmd slurm-client munge"),
    ("test_survive.py", "needs the right to mount a disk"),
}
WAYS = ("skip", "skipif", "importorskip", "xfail", "skipTest")


def skips(path: Path):
    """Yield the reason, or the source, of every skip of a file."""
    tree = ast.parse(path.read_text())
    reasons = {call.func: call for call in ast.walk(tree) if isinstance(call, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in WAYS:
            arguments = reasons[node].args if node in reasons else []
            constant = arguments and isinstance(arguments[0], ast.Constant)
            yield arguments[0].value if constant else ast.unparse(reasons.get(node, node))


def test_only_what_a_machine_has_not_skips_a_test():
    assert {(path.name, reason) for path in FOLDER.glob("*.py") for reason in skips(path)} == ALLOWED


def test_every_way_to_skip_is_found(tmp_path):
    file = tmp_path / "test_a.py"
    file.write_text("import pytest\n@pytest.mark.xfail\ndef test_a():\n    pytest.skip(str(1))\n    pytest.skip('b')\n")
    assert set(skips(file)) == {"pytest.mark.xfail", "pytest.skip(str(1))", "b"}

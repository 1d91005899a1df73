"""Another package's method that cannot be loaded: told of where it is needed, and else in the way of nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint

import pytest
import yaml

from bakeoff.methods import method

BREAKS = {
    "raises": "import no_such_module",
    "raises an error of its own": "class Mine(Exception): pass\nraise Mine('one\\ntwo')",
    "exits": "import sys; sys.exit(0)",
    "ends the process": "import os; os._exit(0)",
    "raises after it has replaced a method": (
        "from bakeoff.methods import register\nfrom bakeoff.methods.bias import Bias\n"
        "@register('lora')\nclass Mine(Bias): pass\n1 / 0"
    ),
}


@pytest.fixture
def site(tmp_path):
    """A folder of packages with one plug-in, whose module's text is given; returns how to run a command with it."""

    def install(text):
        (tmp_path / "site/odd-1.dist-info").mkdir(parents=True)
        (tmp_path / "site/odd-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
        (tmp_path / "site/odd-1.dist-info/entry_points.txt").write_text("[bakeoff.methods]\nodd = odd_method\n")
        (tmp_path / "site/odd_method.py").write_text(text)
        paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

        def run(*words):
            command = [sys.executable, "-m", "bakeoff", *words]
            return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

        return run

    return install


@pytest.mark.parametrize("text", BREAKS.values(), ids=BREAKS)
def test_a_plug_in_that_fails_ends_no_command(site, text):
    done = site(f"print('hello')\n{text}\n")("methods", "lora", "--json")
    assert done.returncode == 0, done.stderr
    assert "thin matrices" in json.loads(done.stdout)["lora"]["summary"]  # bakeoff's own
    assert "hello" not in done.stdout
    assert done.stderr.splitlines()[0] == "hello"
    (warning,) = done.stderr.splitlines()[1:]
    assert warning.startswith("bakeoff: warning: Plug-in 'odd' is not loaded (")


def test_a_method_that_is_missing_because_its_plug_in_fails_is_one_line(site, tiny_config, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tiny_config, "entries": {"mine": {"method": "odd"}}}))
    done = site("import no_such_module")("plan", "c.yaml")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("bakeoff: c.yaml: entries.mine: unknown method 'odd'.")
    assert line.endswith("Plug-in 'odd' is not loaded (ModuleNotFoundError: No module named 'no_such_module').")


@pytest.mark.parametrize("text", ["time.sleep(60)", "while True:\n    try: time.sleep(60)\n    except Exception: pass"])
def test_a_plug_in_that_hangs_is_left_out_in_good_time(tmp_path, monkeypatch, text):
    (tmp_path / "hanging_method.py").write_text(f"import time\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(method, "LOAD_SECONDS", 0.2)
    monkeypatch.setattr(method, "UNLOADED", {})
    began, leave, alarm = time.monotonic(), os._exit, signal.getsignal(signal.SIGALRM)
    method.load_plug_in(EntryPoint("slow", "hanging_method", "bakeoff.methods"))
    assert time.monotonic() - began < 20
    assert method.unloaded() == " Plug-in 'slow' is not loaded (HangsError: not done after 0.2 seconds)."
    assert (os._exit, signal.getsignal(signal.SIGALRM)) == (leave, alarm)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

"""Ray nodes in network namespaces that do not see the run folder, by `make test-scale`: the link of one is cut."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bakeoff.compute.run import rank_host
from bakeoff.compute.run.rank_host import RemoteProcess
from bakeoff.store.event_log import Reader
from bakeoff.store.run_folder import Folder
from tests.test_rank_host import gone, number_in
from tests.test_scale import ENVIRONMENT, SECONDS, in_one_process, left_by_runs, started, until

pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]
RAY = Path(sys.executable).parent / "ray"
HEAD, PORT = "10.201.0.1", "26379"
NODES = {"bakeoff-1": "10.201.0.11", "bakeoff-2": "10.201.0.12"}
# Ray finds within seconds, not in a minute, that a node does not answer.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


def ip(words, check=True):
    """Change the network; return whether that was done."""
    return subprocess.run(["ip", *words.split()], check=check, capture_output=True).returncode == 0


@pytest.fixture
def network():
    """A bridge with two namespaces."""
    if not shutil.which("ip") or not ip("netns add bakeoff-1", check=False):
        pytest.skip("needs the right to make network namespaces")
    try:
        ip("link add bakeoff type bridge")
        ip(f"address add {HEAD}/24 dev bakeoff")
        ip("link set bakeoff up")
        ip("netns add bakeoff-2")
        for name, address in NODES.items():
            ip(f"link add {name} type veth peer name inside netns {name}")
            ip(f"link set {name} master bakeoff")
            ip(f"link set {name} up")
            ip(f"-n {name} address add {address}/24 dev inside")
            ip(f"-n {name} link set inside up")
            ip(f"-n {name} link set lo up")
        yield
    finally:
        for name in NODES:
            ip(f"link delete {name}", check=False)
            ip(f"netns delete {name}", check=False)
        ip("link delete bakeoff", check=False)


@pytest.fixture
def nodes(network, tmp_path, monkeypatch):
    """A head without room for runs, and a node with one slot in each namespace that sees neither folder nor session."""
    for variable, value in {**ENVIRONMENT, **QUICK}.items():
        monkeypatch.setenv(variable, value)
    common = ["--block", "--object-store-memory=100000000"]
    head = [RAY, "start", "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=0", *common]
    begun = [subprocess.Popen([*head, "--include-dashboard=false"])]
    (tmp_path / "runs-here").mkdir()
    Path("/tmp/ray").mkdir(exist_ok=True)
    hidden = f"mount -t tmpfs none {tmp_path / 'runs-here'} && mount -t tmpfs none /tmp/ray"
    time.sleep(5)
    for name, address in NODES.items():
        words = f"{RAY} start --address={HEAD}:{PORT} --node-ip-address={address} --num-cpus=1 {' '.join(common)}"
        script = f"""{hidden} && exec {words} --resources='{{"slot": 1}}'"""
        begun.append(subprocess.Popen(["ip", "netns", "exec", name, "sh", "-c", script]))
    yield
    for process in reversed(begun):
        process.terminate()
    for process in begun:
        process.wait(60)


HOST = """
import os, sys, time
from bakeoff.compute.run import rank_host
code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
rank_host.child = lambda _: [sys.executable, "-c", code, sys.argv[2]]
print(rank_host.RankHost(sys.argv[1], "word", os.environ).port, flush=True)
time.sleep(600)
"""


def test_a_rank_whose_machine_falls_silent_ends_and_rank_0_learns_of_it_within_seconds(network, tmp_path):
    name, address = next(iter(NODES.items()))
    words = ["ip", "netns", "exec", name, sys.executable, "-c", HOST, address, str(tmp_path / "number")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as host:
        process = RemoteProcess((address, int(host.stdout.readline())), "word", {})
        number = number_in(tmp_path / "number")
        ip(f"link set {name} down")
        begun = time.monotonic()
        assert process.outcome() == ("", None, "")
        gone(number)
        assert time.monotonic() - begun < rank_host.SILENT_SECONDS
        host.terminate()


def test_a_link_is_cut_and_the_run_continues_on_the_other_node(tiny_config, nodes, tmp_path):
    tiny_config |= {
        "entries": {"lora": {"r": 2}, "last_layers": {"learning_rate": 0.01}}, "tune": {"trials": 2},
        "baselines": ["base", "lead-1"], "safety": {"checkpoint_seconds": 0.01},
        "output": str(tmp_path / "runs-here/out"),
        "machine": {
            "executor": "ray", "address": f"{HEAD}:{PORT}", "resources": {"slot": 1}, "workers": 2,
        },
    }  # fmt: skip
    config, folder = tmp_path / "cut.yaml", Folder(tiny_config["output"])
    config.write_text(json.dumps(tiny_config))
    process = started(config)
    until(folder, "metrics", 3, process)
    ip("link set bakeoff-1 down")
    assert process.wait(SECONDS) == 0
    notes = [event.text for event in Reader(folder.events_file).new_events() if event.kind == "note"]
    assert sum("is lost; its run continues elsewhere" in note for note in notes) == 1
    assert left_by_runs(folder) == in_one_process(config, tmp_path / "here")

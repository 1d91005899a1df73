"""A Slurm of two nodes on this machine (slurm_here.sh), by `make test-scale`: jobs are ended, the driver is killed."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bakeoff.store.event_log import Reader
from bakeoff.store.run_folder import Folder
from tests.test_scale import assert_as_in_one_process, in_one_process, left_by_runs, over_two, started, until

pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]
SECONDS = 600
LONG = 40  # seconds that a bakeoff takes here which does not end within the shortest limit of a job
HERE = Path(__file__).parent / "slurm_here.sh"
DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch")


def free_ports():
    """Return the first of two ports that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as first, suppress(OSError):
        port = first.getsockname()[1]
        with socket.create_server(("127.0.0.1", port + 1)):
            return str(port)
    return free_ports()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of two nodes with room for four jobs."""
    if os.geteuid() != 0 or not all(map(shutil.which, DAEMONS)):
        pytest.skip("needs root and Slurm: apt-get install slurmctld slurmd slurm-client munge")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("OMP_NUM_THREADS", "1")
        try:
            subprocess.run([HERE, "start", folder, free_ports()], check=True, timeout=60)
            yield folder
            assert jobs() == []
        finally:
            subprocess.run(["scancel", "--user=root"], check=False)
            time.sleep(2)
            subprocess.run([HERE, "stop", folder], check=False)


def jobs():
    """Return the keys of jobs that wait or run."""
    asked = ["squeue", "--noheader", "--array", "--format=%F_%K"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()


def notes(folder):
    """Return all notes of a bakeoff's log."""
    return [event.text for event in Reader(folder.events_file).new_events() if event.kind == "note"]


@pytest.fixture
def on_slurm(tiny_config, slurm, tmp_path):
    """A config of a tuned and a fixed entry whose runs are carried out in two jobs, in a file."""
    tiny_config |= {
        "entries": {"lora": {"r": 2}, "last_layers": {"learning_rate": 0.01}}, "tune": {"trials": 2},
        "baselines": ["base", "lead-1"], "safety": {"checkpoint_seconds": 0.01},
        "machine": {"executor": "slurm", "workers": 2},
    }  # fmt: skip
    file = tmp_path / "on_slurm.yaml"
    file.write_text(json.dumps(tiny_config))
    return file


def command(config, *words):
    """Return the command that runs a config."""
    return [sys.executable, "-m", "bakeoff", "run", str(config), "--display", "plain", *words]


def test_a_job_is_cancelled_and_the_driver_killed_and_nothing_is_lost_or_changed(on_slurm, tmp_path):
    expected = in_one_process(on_slurm, tmp_path / "here")
    folder = Folder(json.loads(on_slurm.read_text())["output"])
    first = started(on_slurm)
    until(folder, "metrics", 1, first)
    cancelled, kept = jobs()
    subprocess.run(["scancel", cancelled], check=True)
    until(folder, "done", 2, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert kept in jobs()
    second = started(on_slurm)
    until(folder, "start", 2, second)
    third = subprocess.run(command(on_slurm), capture_output=True, text=True, check=False)
    assert third.returncode == 2, third.stderr
    assert second.wait(SECONDS) == 0
    assert any("jobs of an earlier session are used again" in note for note in notes(folder))
    assert left_by_runs(folder) == expected
    assert not folder.jobs.exists()
    assert jobs() == []


def test_jobs_that_a_killed_driver_left_end_before_a_bakeoff_resumes_without_slurm(on_slurm, tmp_path):
    expected = in_one_process(on_slurm, tmp_path / "here")
    folder = Folder(json.loads(on_slurm.read_text())["output"])
    first = started(on_slurm)
    until(folder, "metrics", 1, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    config = json.loads(on_slurm.read_text()) | {"machine": {}}
    on_slurm.write_text(json.dumps(config))
    assert subprocess.run(command(on_slurm), check=False).returncode == 0
    assert jobs() == []
    assert left_by_runs(folder) == expected


def test_before_its_time_limit_a_run_saves_and_its_job_is_queued_again(on_slurm, tmp_path):
    config = json.loads(on_slurm.read_text())
    config |= {"entries": {"lora": {"r": 2, "learning_rate": 0.01}}, "tune": None, "baselines": ["base"]}
    config["protocol"] |= {"epochs": 6}
    config["machine"] |= {"workers": 1, "slurm": {"hours": 1, "save_seconds": 30}}
    on_slurm.write_text(json.dumps(config))
    expected = in_one_process(on_slurm, tmp_path / "here")
    folder = Folder(config["output"])
    process = started(on_slurm)
    until(folder, "metrics", 3, process)
    (job,) = jobs()
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)  # as Slurm does before the limit
    assert process.wait(SECONDS) == 0
    assert f"job {job} is in the queue again; its run continues from its checkpoint" in notes(folder)
    steps = [event.step for event in Reader(folder.events_file).new_events() if event.kind == "metrics"]
    assert steps == sorted(steps), "began anew"
    assert left_by_runs(folder) == expected
    assert jobs() == []


def test_a_job_that_reaches_its_time_limit_leaves_the_records_of_one_process(on_slurm, tmp_path):
    config = json.loads(on_slurm.read_text())
    config |= {"entries": {"lora": {"r": 2, "learning_rate": 0.01}}, "tune": None, "baselines": ["base"]}
    config["protocol"] |= {"epochs": 100}
    config["machine"] |= {"workers": 1, "slurm": {"hours": 1 / 60, "save_seconds": 15}}
    on_slurm.write_text(json.dumps(config))
    in_one_process(on_slurm, tmp_path / "pace")
    rows = map(json.loads, Folder(tmp_path / "pace").events_file.read_text().splitlines())
    times = {row["kind"]: row["time"] for row in rows}
    config["protocol"] |= {"epochs": math.ceil(100 * LONG / (times["end"] - times["start"]))}
    on_slurm.write_text(json.dumps(config))
    expected = in_one_process(on_slurm, tmp_path / "here")
    folder = Folder(config["output"])
    process = started(on_slurm)
    assert process.wait(2 * SECONDS) == 0
    assert any("is in the queue again; its run continues from its checkpoint" in note for note in notes(folder))
    assert not any("has ended" in note for note in notes(folder)), "the limit came before the save"
    steps = [event.step for event in Reader(folder.events_file).new_events() if event.kind == "metrics"]
    assert steps == sorted(steps), "began anew"
    assert left_by_runs(folder) == expected
    assert jobs() == []


def test_a_run_over_two_nodes_one_of_which_goes_down_is_as_in_one_process(on_slurm, tmp_path):
    config = over_two(on_slurm, tmp_path / "model", workers=1, slurm={"nodes": 2})
    folder, process = Folder(config["output"]), started(on_slurm)
    until(folder, "metrics", 2, process)
    down = ["scontrol", "update", "nodename=node2", "reason=test"]
    subprocess.run([*down, "state=down"], check=True)
    subprocess.run([*down[:3], "state=resume"], check=True)
    assert process.wait(SECONDS) == 0
    assert sum("is in the queue again; its run continues" in note for note in notes(folder)) == 1
    assert_as_in_one_process(config, tmp_path / "here")
    assert jobs() == []


def test_an_interrupt_saves_and_leaves_no_job(on_slurm):
    folder = Folder(json.loads(on_slurm.read_text())["output"])
    process = started(on_slurm)
    until(folder, "metrics", 1, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    assert jobs() == []
    assert not folder.jobs.exists()


def test_when_all_jobs_are_cancelled_one_line_says_so(on_slurm):
    folder = Folder(json.loads(on_slurm.read_text())["output"])
    process = subprocess.Popen(command(on_slurm), stderr=subprocess.PIPE, text=True)
    until(folder, "metrics", 1, process)
    subprocess.run(["scancel", *jobs()], check=True)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "has ended (cancelled). Try: the same command again" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ("machine.slurm={partition: nope}", "machine.slurm.partition: Slurm refuses the jobs (invalid partition"),
        ("machine.slurm={partition: closed}", "machine.slurm.partition: closed is down, so no job would start"),
        ("machine.resources={CPU: 99}", "machine.resources: Slurm refuses the jobs ("),
        ("machine.resources={GPU: 1}", "machine.resources: Slurm refuses the jobs (Invalid generic resource"),
    ],
)
def test_what_slurm_does_not_give_is_one_line(on_slurm, settings, fault):
    done = subprocess.run(command(on_slurm, "-s", settings), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert fault in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path(json.loads(on_slurm.read_text())["output"]).exists()

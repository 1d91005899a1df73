"""Runs in jobs of Slurm, which end or are queued again; drivers come and go. With Slurm: test_scale_slurm.py."""

import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import bakeoff
from bakeoff.config.loading import load_config
from bakeoff.config.sections import Pin
from bakeoff.driver import slurm, slurm_executor
from bakeoff.driver.job_channel import Job, Talk, jobs_in
from bakeoff.driver.node import Node
from bakeoff.driver.slurm_hosts import OtherNodes, node_for, step
from bakeoff.driver.slurm_node import JobNode
from bakeoff.errors import ConfigError, SetupError
from bakeoff.store.event_log import Reader
from bakeoff.store.run_folder import Folder
from tests import slurm_commands, slurm_stand_in
from tests.conftest import write_splits
from tests.ray_stand_in import InlineServer, spoil
from tests.serving import until
from tests.slurm_stand_in import Slurm
from tests.test_slots import without_neighbours

MACHINE = {"executor": "slurm", "workers": 2}


@pytest.fixture(scope="module")
def alone(tiny_model, tmp_path_factory):
    """The config of a tuned bakeoff, and the records that it leaves in one process."""
    tmp = tmp_path_factory.mktemp("alone")
    config = {
        "name": "tiny", "model": str(tiny_model), "data": write_splits(tmp), "entries": {"lora": {"r": 2}},
        "tune": {"trials": 2}, "baselines": ["base"], "protocol": {"epochs": 2, "max_tokens": 48, "seeds": 1},
        "output": str(tmp / "out"),
    }  # fmt: skip
    return config, without_neighbours(bakeoff.run(config, display="none").folder)


@pytest.fixture
def config(alone, tmp_path):
    """The same bakeoff with its runs in two jobs."""
    return {**alone[0], "output": str(tmp_path / "out"), "machine": MACHINE}


@pytest.fixture
def expected(alone):
    """The records that the bakeoff leaves in one process."""
    return alone[1]


@pytest.fixture
def cluster(config, monkeypatch):
    """A stand-in for Slurm."""
    return slurm_stand_in.installed(monkeypatch, Slurm(config["output"]))


def here(config, tmp_path):
    """Return the records that the bakeoff leaves in one process."""
    alone = {**config, "machine": {}, "output": str(tmp_path / "here")}
    return without_neighbours(bakeoff.run(alone, display="none").folder)


def notes(folder):
    """Return all notes of a bakeoff's log."""
    return [event.text for event in Reader(folder.events_file).new_events() if event.kind == "note"]


def once(act, times=1, when=lambda event: event.kind == "metrics" and event.step):
    """Return what does something at an event of a run, so many times."""
    left = [times]

    def seen(server, event):
        if left[0] and when(event):
            left[0] -= 1
            act(server)

    return staticmethod(seen)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("NODE_FAIL", "has ended (node_fail); another one is submitted"),
        ("PENDING", "is in the queue again; its run continues from its checkpoint"),
        ("CANCELLED", "has ended (cancelled)"),
    ],
)
def test_jobs_that_end_leave_the_records_of_one_process(config, cluster, expected, monkeypatch, state, said):
    lose = once(lambda server: cluster.end(cluster.job_of(server), state))
    monkeypatch.setattr(InlineServer, "seen", lose)
    results = bakeoff.run(config, display="none")
    assert any(said in note for note in notes(results.folder))
    assert without_neighbours(results.folder) == expected
    assert not cluster.running
    assert not results.folder.jobs.exists()


def test_a_job_that_slurm_has_given_up_and_that_goes_on_changes_nothing(config, cluster, expected, monkeypatch):
    given_up = []

    def seen(server, event):
        if not given_up and event.kind == "metrics" and event.step:
            given_up.append((server.place, event.run))
            cluster.end(cluster.job_of(server), "NODE_FAIL")
        elif given_up and server.place != given_up[0][0]:
            spoil(*given_up[0])

    monkeypatch.setattr(InlineServer, "seen", staticmethod(seen))
    folder = bakeoff.run(config, display="none").folder
    assert without_neighbours(folder) == expected


def test_a_run_that_ends_every_job_fails_and_the_others_are_done(config, cluster, monkeypatch):
    fatal = once(
        lambda server: cluster.end(cluster.job_of(server), "OUT_OF_MEMORY"),
        99,
        lambda event: event.kind == "state" and event.run.startswith("last_layers"),
    )
    monkeypatch.setattr(InlineServer, "seen", fatal)
    rows = bakeoff.run({**config, "tune": None, "entries": {"lora": {"r": 2}, "last_layers": {}}}, display="none")
    statuses = {name: row.status for name, row in rows.document.entries.items()}
    assert statuses == {"lora": "done", "last_layers": "failed"}
    assert rows.document.entries["last_layers"].error == "5 machines were lost while they carried it out"


def test_a_job_without_work_ends_and_another_is_submitted_when_there_is_some(config, cluster, monkeypatch):
    monkeypatch.setattr(slurm_executor, "IDLE_SECONDS", 0.05)
    bakeoff.run(config, display="none")
    submitted = [words for words in cluster.asked if words[0] == "sbatch" and "--test-only" not in words]
    assert len(submitted) > 1  # the baseline and trials need two jobs, the final run one


def test_all_jobs_cancelled_is_one_line(config, cluster, monkeypatch):
    cancel = once(lambda server: cluster.scancel(["--quiet", *cluster.states]))
    monkeypatch.setattr(InlineServer, "seen", cancel)
    with pytest.raises(
        SetupError, match=r"^machine\.executor: job 1_\d has ended \(cancelled\)\. Try: the same command"
    ):
        bakeoff.run(config, display="none")


def test_a_job_that_cannot_begin_is_one_line_with_what_it_has_written(config, cluster, monkeypatch):
    def begin(key):
        (cluster.folder.jobs / f"{key}.log").write_text("Starting\nNo module named bakeoff\n")
        cluster.states[key] = "FAILED"

    cluster.begin = begin
    with pytest.raises(
        SetupError, match=r"\(failed\) before it could begin: No module named bakeoff\. Try: see .*\.log$"
    ) as error:
        bakeoff.run(config, display="none")
    assert "No module named" in Path(str(error.value).rpartition("see ")[2]).read_text()


def test_a_node_with_other_versions_is_not_used(config, cluster, monkeypatch):
    monkeypatch.setattr("bakeoff.driver.slurm_slot.complaint", lambda facts, identity: "node-1 has torch 1.0")
    with pytest.raises(SetupError, match="node-1 has torch 1.0, so it is not used. Try: the same versions"):
        bakeoff.run(config, display="none")


@pytest.mark.parametrize("machine", [MACHINE, {}], ids=["slurm", "local"])
def test_a_folder_that_names_a_job_of_another_one_does_not_end_it(config, cluster, machine):
    folder = Folder(config["output"])
    cluster.states["7_0"], cluster.names["7_0"] = (
        "RUNNING",
        slurm.job_name(Folder(f"{folder.path}-before-it-was-copied")),
    )
    bakeoff.run(config, display="none")
    folder.jobs.mkdir()
    (folder.jobs / "7_0.orders").write_text('{"session": "a", "spec": "b"}\n')
    bakeoff.run({**config, "machine": machine}, display="none")
    assert cluster.states["7_0"] == "RUNNING"
    assert not folder.jobs.exists()


def test_a_slurm_that_does_not_answer_for_a_while_ends_nothing(config, cluster, expected, monkeypatch):
    def be_silent(_):
        cluster.silent = "squeue: cannot contact the controller"
        threading.Timer(0.3, lambda: setattr(cluster, "silent", None)).start()

    monkeypatch.setattr(InlineServer, "seen", once(be_silent))
    folder = bakeoff.run(config, display="none").folder
    assert any("the driver tries again" in note for note in notes(folder))
    assert without_neighbours(folder) == expected


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("invalid partition specified: nope; allocation failure", "machine.slurm.partition"),
        ("Batch job submission failed: Invalid account or account/partition combination", "machine.slurm.account"),
        ("Invalid generic resource (gres) specification", "machine.resources"),
        ("Requested node configuration is not available", "machine.resources"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "machine.slurm.hours"),
        ("Job violates accounting/QOS policy", "machine.slurm"),
    ],
)
def test_what_slurm_refuses_is_one_line_before_anything_is_planned(config, cluster, said, setting):
    cluster.refusal = said
    with pytest.raises(SetupError) as error:
        bakeoff.run(config, display="none")
    assert str(error.value) == f"{setting}: Slurm refuses the jobs ({said}). Try: sinfo, which lists what there is"
    assert not load_config(config).folder.exists()


@pytest.mark.parametrize(
    ("machine", "fault"),
    [
        ({"slurm": {"partition": "old"}}, r"machine\.slurm\.partition: old is down, so no job would start. Try: main"),
        ({"resources": {"GPU": 0.5}}, r"machine\.resources: Slurm gives whole numbers of GPU, got 0.5"),
        ({"shards": 2, "resources": {"GPU": 3}}, r"resources: GPU 3 for machine\.shards: 2, each of which .* GPU: 2$"),
        (
            {"shards": 2, "slurm": {"nodes": 2}, "resources": {"CPU": 3}},
            "whole numbers of CPU on each of 2 nodes, got 3. Try: CPU: 2",
        ),
        ({"shards": 3, "slurm": {"nodes": 2}}, "slurm: nodes: 2 cannot share machine.shards: 3 evenly"),
        ({"devices": [0]}, "devices: Slurm says which devices a run uses"),
        ({"address": "auto"}, "address: is for a cluster. Try: executor: ray"),
        ({"executor": "ray", "slurm": {}}, "slurm: is for a cluster. Try: executor: slurm"),
        ({"slurm": {"hours": 0.01}}, "hours: a job of 36 s has no time left. Try: less save_seconds"),
        ({"slurm": {"options": ["--array=0-9"]}}, "--array is set by bakeoff"),
        ({"slurm": {"options": ["--batch=big"]}}, "--batch is set by bakeoff"),
        ({"slurm": {"options": ["qos=low"]}}, "expected options as in --qos=low, got 'qos=low'"),
        ({"resources": {"GPU --wrap": 1}}, "expected names as in"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(config, cluster, machine, fault):
    with pytest.raises((ConfigError, SetupError), match=fault) as error:
        bakeoff.run({**config, "machine": {**MACHINE, **machine}}, display="none")
    assert "\n" not in str(error.value)


def test_without_slurm_the_command_says_where_to_try(config, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match=r"^machine\.executor: sinfo is not on this machine. Try: a login node"):
        bakeoff.run(config, display="none")


def test_a_slurm_that_does_not_answer_is_one_line(config, tmp_path, monkeypatch):
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'sinfo: error: no configuration source' >&2\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(
        SetupError, match=r"^machine\.executor: Slurm does not answer \(no configuration source\)\. Try: "
    ):
        bakeoff.run(config, display="none")


def test_sbatch_is_told_what_the_config_says(config):
    machine = {
        "resources": {"GPU": 2, "CPU": 4, "memory": 2**34, "licence": 1},
        "slurm": {"partition": "gpu", "account": "lab", "hours": 1.01, "options": ["--qos=low"], "save_seconds": 90},
    }
    settings = load_config({**config, "machine": {**MACHINE, **machine}}).machine
    folder = Folder("out")
    assert slurm.options_of(folder, settings, settings.resources) == [
        f"--job-name={slurm.job_name(folder)}", "--requeue", "--signal=B:USR1@90",
        "--nodes=1", "--ntasks=1", "--ntasks-per-node=1",
        "--partition=gpu", "--account=lab", "--time=61",
        "--cpus-per-task=4", "--mem=16384M", "--gres=gpu:2,licence:1", "--qos=low",
    ]  # fmt: skip


def test_each_of_several_nodes_gives_its_part(config):
    machine = {"shards": 8, "resources": {"GPU": 8, "CPU": 16, "memory": 2**34}, "slurm": {"nodes": 2}}
    settings = load_config({**config, "machine": {**MACHINE, **machine}}).machine
    options = slurm.options_of(Folder("out"), settings, settings.resources)
    wanted = {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--mem=8192M", "--gres=gpu:4"}
    assert wanted < {*options}


def test_each_process_has_its_share_of_the_cores_of_its_node(monkeypatch):
    for cores, ranks, threads in (("8", 4, "2"), ("8", 1, "8"), ("1", 4, "1")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", cores)
        assert node_for("cpu", ranks).environment["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert node_for("cpu", 4).environment["OMP_NUM_THREADS"] == "3"


def test_a_script_keeps_a_folder_with_spaces_and_quotes_as_one_word(tmp_path):
    folder = Folder(tmp_path / "it's $HOME here")
    folder.jobs.mkdir(parents=True)
    script = slurm.script(folder, ["cpu"]).replace("exec ", "printf '%s\\n' ")
    job = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run(["bash"], input=script, text=True, check=True, env={**os.environ, **job})
    assert str(folder.path) in (folder.jobs / "7_0.log").read_text().splitlines()


def test_a_job_ends_if_no_driver_comes_or_its_files_are_gone(tmp_path):
    folder = Folder(tmp_path)
    node = JobNode(folder, "1_0", Node("cpu"), 10, 0.2)
    node.serve()  # nobody calls
    assert not Talk(node.channel.says).file.exists()
    Job(folder, "1_1").call("first", "")
    node = JobNode(folder, "1_1", Node("cpu"), 10, 0.2)
    node.serve()  # the driver that has called touches no lock
    assert [said["session"] for said in Talk(node.channel.says).new()] == ["first"]
    Job(folder, "1_2").call("first", "")
    node = JobNode(folder, "1_2", Node("cpu"), 10, 600)
    threading.Timer(0.5, node.channel.remove).start()
    node.serve()


def test_a_folder_whose_jobs_slurm_does_not_know_is_not_used(config, monkeypatch):
    config = {**config, "machine": {}}
    folder = bakeoff.run(config, display="none").folder
    Job(folder, "1_0").call("first", "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="jobs of Slurm may still write into this folder, and Slurm does not say"):
        bakeoff.run(config, display="none")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The folder of a stand-in for Slurm's commands, whose jobs are processes."""
    state = tmp_path / "slurm"
    state.mkdir()
    slurm_commands.install(tmp_path / "bin")
    for name, value in {"SLURM_STAND_IN": str(state), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(slurm_executor, "ASK_SECONDS", 0.5)
    return state


def acting(monkeypatch, act):
    """Let the driver do something once, when a run has said how its training is."""
    run = slurm_executor.SlurmExecutor.run

    def acts_once(executor, *words):
        acted = False
        for event in run(executor, *words):
            yield event
            if event.kind == "metrics" and event.step and not acted:
                acted = True
                act()

    monkeypatch.setattr(slurm_executor.SlurmExecutor, "run", acts_once)


def test_a_run_over_two_nodes_of_a_job_is_as_in_one_process_though_one_of_them_is_lost(config, state, monkeypatch):
    config |= {"tune": None, "safety": {"checkpoint_seconds": 0.01}}
    config["protocol"] = {**config["protocol"], "precision": "fp32", "epochs": 8}
    folder = bakeoff.run({**config, "machine": {}}, display="none").folder
    run = next(run for run in folder.runs() if run.entry == "lora")
    alone = folder.run(run.id).result()
    shutil.rmtree(folder.run(run.id).path)
    config["machine"] = {**MACHINE, "workers": 1, "device": "cpu", "shards": 2, "slurm": {"nodes": 2}}
    acting(monkeypatch, lambda: os.kill(int((state / "step.pid").read_text()), signal.SIGKILL))
    bakeoff.run(config, display="none")
    assert (state / "1_0.starts").read_text() == "2"
    assert "job 1_0 is in the queue again; its run continues from its checkpoint" in notes(folder)
    until(lambda: not slurm_commands.lives(int((state / "step.pid").read_text())))
    found = folder.run(run.id).result()
    assert (found.status, found.shards, found.checks) == ("done", 2, alone.checks)
    assert found.metrics == {n: pytest.approx(value, rel=1e-5, abs=1e-5) for n, value in alone.metrics.items()}


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"sees": False, "host": "b"}, "b does not see the run folder, as runs over several nodes must"),
        ({"base": "other", "host": "b"}, "b has another base than this bakeoff was planned with"),
    ],
)
def test_other_nodes_of_a_job_that_do_not_fit_are_one_line(config, cluster, monkeypatch, facts, line):
    def answers():
        return [Node.facts(Node("cpu"), *asked[0][:3], Pin(*asked[0][3:])) | facts], [("127.0.0.1", 1)]

    asked = []
    cluster.others = SimpleNamespace(ranks=1, start=asked.append, answers=answers, end=lambda: None)
    config["machine"] = {**MACHINE, "shards": 2, "slurm": {"nodes": 2}}
    with pytest.raises(SetupError, match=rf"^machine\.executor: .*{line}, so it is not used"):
        bakeoff.run(config, display="none")


def test_a_step_that_starts_nothing_is_tried_in_other_jobs_and_then_one_line(config, state):
    (state.parent / "bin/srun").write_text("#!/bin/sh\necho srun: error: no such node >&2\nexit 1\n")
    config["machine"] = {**MACHINE, "workers": 1, "device": "cpu", "shards": 2, "slurm": {"nodes": 2}}
    with pytest.raises(SetupError, match="before it could begin: srun has not started bakeoff on all nodes") as error:
        bakeoff.run(config, display="none")
    log = Path(str(error.value).rpartition("see ")[2])
    assert "srun: error: no such node" in log.read_text()
    assert len([*state.glob("*.script")]) == 1 + slurm_executor.MOST_EARLY_ENDS
    assert [job.key for job in jobs_in(Folder(config["output"]))] == [log.stem]


def test_lines_of_a_site_s_prolog_are_no_answers_of_hosts(state):
    answer = json.dumps({"facts": {"host": "b"}, "place": ["127.0.0.1", 1]})
    lines = ["Loading cuda/12", "{", "1", '{"module": "cuda"}', f"0: {answer}", "ended"]
    said = "".join(f"echo '{line}'\n" for line in lines)
    (state.parent / "bin/srun").write_text(f"#!/bin/sh\nprintf 'caf\\351\\n'\n{said}")
    nodes = OtherNodes(1, "cpu", 1)
    nodes.start([])
    assert nodes.answers() == ([{"host": "b"}], [("127.0.0.1", 1)])
    nodes.end()


def test_hosts_have_the_environment_of_their_job_and_fail_together(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert step(2) == [
        "srun", "--nodes=2", "--ntasks=2", "--relative=1", "--export=ALL", "--kill-on-bad-exit=1", "--cpus-per-task=3",
        "--",
    ]  # fmt: skip


def test_processes_of_jobs_outlive_a_driver_and_save_at_their_limit(config, state, tmp_path, monkeypatch):
    config = {**config, "entries": {"lora": {"r": 2}}, "tune": None, "safety": {"checkpoint_seconds": 0.01}}
    config["machine"] = {**MACHINE, "workers": 1, "device": "cpu"}
    config["protocol"] = {**config["protocol"], "epochs": 30}
    folder = load_config(config).folder
    run = slurm_executor.SlurmExecutor.run

    def until_metrics(executor, *words):
        for event in run(executor, *words):
            yield event
            if event.kind == "metrics":
                raise RuntimeError("as if it were killed")

    with monkeypatch.context() as killed:
        killed.setattr(slurm_executor.SlurmExecutor, "run", until_metrics)
        killed.setattr(slurm_executor.SlurmExecutor, "close", lambda executor: vars(executor).update(slots=[], jobs=[]))
        with pytest.raises(RuntimeError, match="as if"):
            bakeoff.run(config, display="none")
    assert slurm_commands.state(state, "1_0") == "RUNNING"

    acting(monkeypatch, lambda: slurm_commands.end(state, "1_0", signal.SIGUSR1))
    found = without_neighbours(bakeoff.run(config, display="none").folder)
    assert (state / "1_0.starts").read_text() == "2"
    assert "1 jobs of an earlier session are used again" in notes(Folder(folder))
    assert slurm_commands.state(state, "1_0") == "CANCELLED"
    alone = here(config, tmp_path)
    assert sorted({*found["files"]} ^ {*alone["files"]}) == []
    assert found == alone

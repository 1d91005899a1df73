"""Which device runs use, on machines that tests pretend to have: torch's view of an accelerator is replaced."""

import itertools
import json
import os
import re
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

import bakeoff
from bakeoff.cli import doctor
from bakeoff.cli.main import main
from bakeoff.compute.model import device as module
from bakeoff.compute.model import precision
from bakeoff.compute.model.device import CPU, Clocks, Facts, choose, facts, native_precision, use
from bakeoff.config.loading import load_config
from bakeoff.driver import device as driver
from bakeoff.driver import plan
from bakeoff.driver.run_server import environment_of
from bakeoff.errors import ConfigError, SetupError
from bakeoff.store.files import write_json


class Accelerator:
    """What `torch.accelerator` says on a machine with `count` devices of a kind, and what it was asked to do."""

    def __init__(self, kind="cuda", count=1, broken=None):
        self.kind, self.count, self.broken, self.done = kind, count, broken, []

    def current_accelerator(self, check_available=False):
        return torch.device(self.kind) if self.kind and not check_available else None  # torch itself sees none

    def device_count(self):
        return self.count

    def mem_get_info(self, device):
        return 10**9, 2 * 10**9

    def set_device_index(self, device):
        self.done.append(("use", str(device)))
        if self.broken:
            raise RuntimeError(self.broken)

    def __getattr__(self, name):
        return lambda device: self.done.append((name, str(device))) or 1


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends a machine."""

    def pretend(*arguments, **named):
        there = Accelerator(*arguments, **named)
        for name in ("current_accelerator", "device_count", "set_device_index", "synchronize",
                     "reset_peak_memory_stats", "max_memory_allocated"):  # fmt: skip
            monkeypatch.setattr(torch.accelerator, name, getattr(there, name))
        for own in (torch.cuda, torch.xpu):
            monkeypatch.setattr(own, "mem_get_info", there.mem_get_info)
        monkeypatch.setattr(module, "compute_on", lambda device: there.done.append(("compute", str(device))))
        driver.survey.cache_clear()
        return there

    yield pretend
    driver.survey.cache_clear()


@pytest.mark.parametrize(
    ("there", "asked", "device"),
    [
        (("cuda", 2), "auto", "cuda:0"),
        (("cuda", 2), "cuda", "cuda:0"),
        (("cuda", 2), "cuda:1", "cuda:1"),
        (("cuda", 2), "cpu", "cpu"),
        (("xpu", 1), "auto", "xpu:0"),
        (("mps", 1), "auto", "cpu"),
        (("mps", 1), "mps", "mps:0"),
        (("cuda", 0), "auto", "cpu"),
        ((None, 0), "auto", "cpu"),
    ],
)
def test_a_device_is_chosen_by_its_name(machine, there, asked, device):
    pretended = machine(*there)
    assert str(choose(asked)) == device
    assert pretended.done == []


@pytest.mark.parametrize(
    ("there", "asked", "here"),
    [
        (("cuda", 0), "cuda", "auto, cpu. Try: nvidia-smi, or a build of torch for this GPU"),
        ((None, 0), "mps", "auto, cpu. Try: nvidia-smi"),
        (("cuda", 1), "cuda:1", "auto, cpu, cuda:0. Try: one of these"),
        (("cuda", 1), "xpu", "auto, cpu, cuda:0. Try: one of these"),
    ],
)
def test_a_device_that_is_not_here_is_one_line_before_anything_runs(machine, tiny_config, tmp_path, there, asked, here):
    machine(*there)
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(tiny_config))
    done = CliRunner().invoke(main, ["run", str(file), "--device", asked])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"bakeoff: {file}: machine.device: {asked}: torch {torch.__version__} finds no such")
    assert f"Allowed here: {here}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "bakeoffs").exists()


def test_an_unknown_device_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="machine.device: unknown device 'cuda1'. Did you mean 'cuda:1'?"):
        load_config({"data": "docstrings", "entries": ["lora"], "machine": {"device": "cuda1"}})


@pytest.mark.parametrize(
    "reason", ["CUDA error: all CUDA-capable devices are busy or unavailable", "CUDA error: out of memory"]
)
def test_a_device_that_others_have_is_one_line(machine, reason):
    machine(broken=f"{reason}\nCUDA kernel errors might be asynchronously reported")
    with pytest.raises(SetupError, match=rf"machine.device: cuda:0: cannot be used \({reason} CUDA.*Try: nvidia-smi"):
        use(choose("cuda"))


def answer(text, status=0):
    return lambda words, **_: subprocess.CompletedProcess(words, status, text, "first\nlast\n")


def test_the_driver_learns_of_an_accelerator_from_a_process_that_ends(machine, monkeypatch):
    there = machine("cuda", 2)
    found = {"device": "cuda:1", "name": "A GPU", "free_bytes": 1, "total_bytes": 2, "native_precision": "bf16",
             "fast_fp16": False}  # fmt: skip
    asked = []

    def run(words, env, **_):
        asked.append((words, env["TORCH_CUDNN_SDPA_DEPRIORITIZED"]))
        return answer(f"a library's words\n{json.dumps(found)}\n")(words)

    monkeypatch.setattr(subprocess, "run", run)
    assert driver.survey("cuda:1").name == "A GPU"
    assert driver.survey("cuda:1").native_precision == "bf16"
    assert [(*words[-2:], own) for words, own in asked] == [("compute.model.device", "cuda:1", "1")]
    assert there.done == []
    monkeypatch.setattr(subprocess, "run", answer(json.dumps({"error": "it is taken"})))
    with pytest.raises(SetupError, match="it is taken"):
        driver.asked_apart("cuda:0")
    monkeypatch.setattr(subprocess, "run", answer("", 1))
    with pytest.raises(SetupError, match=r"machine.device: cuda:0: cannot be used \(last\)"):
        driver.asked_apart("cuda:0")

    def hang(*_, **options):
        raise subprocess.TimeoutExpired("", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(SetupError, match="machine.device: cuda:0: does not answer"):
        driver.asked_apart("cuda:0")


def test_a_process_of_its_own_tells_of_the_processor():
    assert driver.asked_apart("cpu").total_bytes == facts(CPU).total_bytes


@pytest.mark.parametrize(
    ("hip", "properties", "precision", "fast_fp16"),
    [
        (None, {"major": 9}, "bf16", False),
        (None, {"major": 8}, "bf16", False),
        (None, {"major": 7}, "fp32", True),
        (None, {"major": 6}, "fp32", False),
        ("6.4", {"major": 9, "gcnArchName": "gfx942:sramecc+"}, "bf16", False),
        ("6.4", {"major": 9, "gcnArchName": "gfx906"}, "fp32", False),
    ],
)
def test_auto_precision_is_what_the_matrix_units_multiply(machine, monkeypatch, hip, properties, precision, fast_fp16):
    machine()
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**properties))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    found = facts(torch.device("cuda:0"))
    assert (found.native_precision, found.fast_fp16) == (precision, fast_fp16)
    assert (found.name, found.free_bytes, found.total_bytes) == ("A GPU", 10**9, 2 * 10**9)


@pytest.mark.parametrize(
    ("instructions", "seconds", "faster"),
    [
        ({"avx512_bf16": True}, {torch.float32: [2.0, 9.0], torch.bfloat16: [9.0, 1.0]}, True),
        ({"amx_bf16": True}, {torch.float32: [9.0, 2.0], torch.bfloat16: [1.9, 9.0]}, False),  # a busy moment each
        ({"avx512_bf16": True}, {torch.float32: [1.0], torch.bfloat16: [2.0]}, False),  # Intel's without AMX
        ({"avx512_f": True}, {}, False),  # would take seconds
    ],
)
def test_auto_on_a_processor_is_bf16_only_where_it_is_measured_to_be_faster(monkeypatch, instructions, seconds, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    takes = {dtype: itertools.cycle(values) for dtype, values in seconds.items()}
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: next(takes[dtype]))
    threads = torch.get_num_threads()
    precision.bf16_is_faster.cache_clear()
    try:
        assert native_precision(CPU) == ("bf16" if faster else "fp32")
    finally:
        precision.bf16_is_faster.cache_clear()
    assert torch.get_num_threads() == threads


def test_a_folder_keeps_the_precision_that_auto_chose_on_the_same_hardware(tiny_config, monkeypatch):
    config = tiny_config | {"entries": {"lora": tiny_config["entries"]["lora"]}, "baselines": ["base"]}
    auto = {"protocol.precision": "auto"}
    first = bakeoff.run(config, auto, display="none")
    chosen = first.document.precision
    other = {"fp32": "bf16", "bf16": "fp32"}[chosen]
    measured = replace(driver.survey("cpu"), native_precision=other)
    monkeypatch.setattr(plan, "survey", lambda _: measured)
    again = load_config(config, auto | {"protocol.epochs": 2})
    assert plan.make_plan(again, folder=first.folder).document.precision == chosen
    asked = load_config(config, {"protocol.precision": other})
    assert plan.make_plan(asked, folder=first.folder).document.precision == other
    monkeypatch.setattr(plan, "processor", lambda: "another")
    assert plan.make_plan(again, folder=first.folder).document.precision == other


def test_auto_on_mps_is_fp32(machine):
    machine("mps")
    assert native_precision(torch.device("mps:0")) == "fp32"


def test_clocks_and_peaks_are_of_the_device_that_a_run_uses(machine):
    there = machine("cuda", 2)
    with Clocks().phase("train"):
        pass
    module.reset_peak(CPU)
    assert module.peak_bytes(CPU) > 10**6
    assert there.done == []
    second = torch.device("cuda:1")
    with Clocks(second).phase("train"):
        module.reset_peak(second)
        module.peak_bytes(second)
    names = ("synchronize", "reset_peak_memory_stats", "max_memory_allocated", "synchronize")
    assert there.done == [(name, "cuda:1") for name in names]


def test_a_bakeoff_on_the_cpu_of_a_machine_with_a_gpu_leaves_it_alone(machine, tiny_config):
    there = machine()
    protocol = tiny_config["protocol"] | {"epochs": 1}
    config = tiny_config | {"entries": ["lora"], "protocol": protocol, "machine": {"device": "cpu"}}
    results = bakeoff.run(config, display="none")
    assert [row.error for row in results.entries.values()] == [None]
    assert results.document.environment["gpu"] is None
    assert there.done == []
    results.best().load(device="cpu").generate(["bab beb"])
    assert there.done == []
    assert environment_of(load_config(config))["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("said", [None, "0"])
def test_runs_take_cudnns_attention_last_unless_the_user_says_otherwise(tiny_config, monkeypatch, said):
    if said:
        monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", said)
    assert environment_of(load_config(tiny_config))["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == (said or "1")


@pytest.mark.parametrize("command", [["generate"], ["serve", "--port", "0"]])
def test_commands_that_load_a_model_have_the_environment_of_runs(tmp_path, monkeypatch, command):
    names = {"TORCH_CUDNN_SDPA_DEPRIORITIZED", "PYTORCH_ALLOC_CONF", "CUDA_VISIBLE_DEVICES"}
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    for here, expected in (
        ({}, {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "a:1", "TORCH_CUDNN_SDPA_DEPRIORITIZED": "0", "CUDA_VISIBLE_DEVICES": "3"},
         {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0", "CUDA_VISIBLE_DEVICES": "3"}),
    ):  # fmt: skip
        own = {name: value for name, value in os.environ.items() if name not in names} | here
        monkeypatch.setattr(os, "environ", own)
        CliRunner().invoke(main, [*command, str(tmp_path)])
        assert {name: own[name] for name in names & own.keys()} == expected
    own = {name: value for name, value in os.environ.items() if name not in names} | {"CUDA_VISIBLE_DEVICES": "3"}
    monkeypatch.setattr(os, "environ", own)
    CliRunner().invoke(main, [*command, str(tmp_path), "--device", "cpu"])
    assert own["CUDA_VISIBLE_DEVICES"] == ""
    assert "PYTORCH_ALLOC_CONF" not in own


def test_copied_baselines_touch_no_accelerator(machine, tiny_config, monkeypatch):
    there = machine()
    entries = {"lora": tiny_config["entries"]["lora"]}
    cpu = tiny_config | {"entries": entries, "baselines": ["base", "lead-1", "oracle"], "machine": {"device": "cpu"}}
    results = bakeoff.run(cpu, display="none")
    from bakeoff.compute.run.execution import execute

    row = results.folder.plan().row()
    row["config"]["machine"]["device"] = "cuda"
    write_json(results.folder.plan_file, row)
    for run in results.folder.plan().runs:
        if run.entry in ("lead-1", "oracle"):
            results.folder.run(run.id).predictions_file.unlink()
            assert execute(results.folder.path, run.id, "decode", lambda _: None).status == "done"
    assert {name for name, _ in there.done} == {"synchronize"}  # torch's own does nothing before a first use


def test_doctor_says_that_a_gpu_cannot_be_used_and_examines_the_rest(machine, monkeypatch):
    machine()
    monkeypatch.setattr(doctor, "FAMILIES", {})
    monkeypatch.setattr(driver, "asked_apart", lambda name: driver_error(name))
    driver.survey.cache_clear()
    text = CliRunner().invoke(main, ["doctor"]).stdout
    assert re.search(r"^memory: [\d.,]+ [GM]iB$", text, re.MULTILINE)
    assert "None" not in text
    found = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert found["environment"]["gpu"] is None
    check = next(check for check in found["checks"] if check["name"] == "device")
    assert (check["status"], check["text"]) == ("problem", "cuda:0: taken")


def driver_error(name):
    raise SetupError(f"{name}: taken")


@pytest.mark.parametrize(
    ("free", "fast_fp16", "status", "words"),
    [
        (9, False, "ok", "A GPU, 9.0 of 10.0 GB free"),
        (1, False, "advice", "1.0 of 10.0 GB free"),
        (9, True, "advice", "fp16"),
    ],
)
def test_doctor_and_a_plan_say_what_a_gpu_has(machine, monkeypatch, tiny_config, free, fast_fp16, status, words):
    machine()
    there = Facts("cuda:0", "A GPU", free * 10**9, 10**10, "fp32", fast_fp16)
    monkeypatch.setattr(driver, "asked_apart", lambda name: there)
    check = doctor.device("auto")
    assert check.status == status
    assert words in check.text
    plan = bakeoff.plan(tiny_config)
    assert (plan["memory_bytes"], plan["precision"]) == (10**10, "fp32")
    assert any("Try: protocol.precision: fp16" in finding for finding in plan["data"]["findings"]) == fast_fp16

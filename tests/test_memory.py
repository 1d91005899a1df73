"""Memory: what a training leaves, errors that mean there is none left, and where the best weights are kept."""

import gc
import os
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bakeoff
from bakeoff.compute.decoding import greedy
from bakeoff.compute.model import forward
from bakeoff.compute.model.device import CPU, Facts, out_of_memory
from bakeoff.compute.run import lender, worker
from bakeoff.compute.run.execution import execute
from bakeoff.compute.run.handover import NOTHING, Given
from bakeoff.compute.run.lender import Lender
from bakeoff.compute.training.best import copies, place_of_best
from bakeoff.compute.training.loop import Trainer
from bakeoff.config.loading import load_config
from bakeoff.config.machine import MachineConfig
from bakeoff.driver import device, plan
from bakeoff.driver.memory import CONTEXT_BYTES, LARGE, Sizes, check_room, decoding_precision, least_bytes
from bakeoff.driver.run_server import environment_of
from bakeoff.errors import SetupError
from bakeoff.library_errors import no_memory
from bakeoff.methods import build_method

GIB = 2**30


@pytest.mark.parametrize(
    ("entry", "method", "given"),
    [
        ("prompt_tuning", None, NOTHING),
        ("last_layers", None, NOTHING),
        ("lora", None, NOTHING),
        ("lora", "full", NOTHING),
        ("lora", "full", Given(lender=Lender(CPU))),  # lent, and let go of
    ],
)
def test_a_trained_model_is_gone_before_its_adapter_is_loaded(copied, shared, monkeypatch, entry, method, given):
    """Python's collector, which may come at any time, is off: a circle of references is found by nobody else."""
    if method:
        monkeypatch.setattr(worker, "build_method", lambda name, _: build_method(name, {"method": method}))
    monkeypatch.setattr(lender, "memory", lambda _: (0, 0))  # of which nothing may be held beside a run
    seen, left = {}, []

    class Seen(Trainer):
        def __init__(self, base, adapted, *arguments, **named):
            super().__init__(base, adapted, *arguments, **named)
            seen.update(trainer=weakref.ref(self), base=weakref.ref(base.model), adapted=weakref.ref(adapted))

    def released(device):
        left.append([name for name in ("trainer",) if seen[name]() is not None])
        release(device)

    def load_adapter(*arguments):
        left.append([name for name, thing in seen.items() if thing() is not None])
        return load(*arguments)

    release, load = worker.release, worker.load_adapter
    monkeypatch.setattr(worker, "Trainer", Seen)
    monkeypatch.setattr(worker, "release", released)
    monkeypatch.setattr(worker, "load_adapter", load_adapter)
    run = shared[1].entry(entry).best_run()
    copied.run(run.id).result_file.unlink()
    gc.disable()
    try:
        assert execute(copied.path, run.id, "train", lambda _: None, given=given).status == "done"
    finally:
        gc.enable()
    assert left == [[], []]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "HIP out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN Frontend error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED",
        "Error out of memory at line 391 in file /src/csrc/pythonInterface.cpp",
        "Native API failed: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        "MPS backend out of memory (MPS allocated: 17 GB)",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    ],
)
def test_each_librarys_words_for_no_memory_are_known(text):
    assert out_of_memory(RuntimeError(text))
    assert no_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "text", ["CUDA error: an illegal memory access was encountered", "CUBLAS_STATUS_EXECUTION_FAILED"]
)
def test_other_errors_of_a_gpu_are_none_of_memory(text):
    assert not out_of_memory(RuntimeError(text))


def test_the_allocator_of_gpus_grows_its_blocks_unless_the_user_or_the_processor_says_otherwise(monkeypatch):
    config = load_config({"data": "docstrings", "entries": ["lora"]})
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert environment_of(config)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    on_cpu = config.model_copy(update={"machine": config.machine.model_copy(update={"device": "cpu"})})
    assert "PYTORCH_ALLOC_CONF" not in environment_of(on_cpu)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert "PYTORCH_ALLOC_CONF" not in environment_of(config)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "x:1")
    assert environment_of(config) == {**environment_of(config), **os.environ}


def test_large_best_weights_are_kept_in_the_hosts_memory(monkeypatch):
    gpu = torch.device("cuda:0")
    weights = {"a": nn.Parameter(torch.ones(3, 4)), "b": nn.Parameter(torch.ones(5))}
    assert place_of_best(weights, gpu) == gpu
    assert place_of_best({"a": nn.Parameter(torch.empty(GIB // 4 + 1, device="meta"))}, gpu) == CPU
    monkeypatch.setattr("bakeoff.compute.training.best.BEST_BYTES", 4 * 17)
    assert place_of_best(weights, gpu) == gpu
    monkeypatch.setattr("bakeoff.compute.training.best.BEST_BYTES", 4 * 17 - 1)
    assert place_of_best(weights, gpu) == CPU
    best = copies(weights, torch.device("xpu:0"), {})
    weights["a"].data.fill_(2)
    assert {name: float(tensor.sum()) for name, tensor in best.items()} == {"a": 12.0, "b": 5.0}
    places = [tensor.data_ptr() for tensor in best.values()]
    best = copies(weights, torch.device("xpu:0"), best)
    assert {name: float(tensor.sum()) for name, tensor in best.items()} == {"a": 24.0, "b": 5.0}
    assert places == [tensor.data_ptr() for tensor in best.values()]


def gpu(total):
    return Facts("cuda:0", "A GPU", total, total, "bf16", False)


HOST = Facts("cpu", None, 10**12, 10**12, "bf16", False)


@pytest.mark.parametrize(
    ("asked", "frozen", "weights", "device", "chosen"),
    [
        ("auto", "bf16", 10**6, gpu(10**10), "fp32"),
        ("auto", "bf16", LARGE, gpu(10**11), "fp32"),
        ("auto", "bf16", LARGE + 1, gpu(10**11), "bf16"),
        ("auto", "fp16", LARGE + 1, HOST, "fp16"),
        ("auto", "fp32", LARGE + 1, gpu(10**11), "fp32"),
        ("auto", "bf16", 10**9, gpu(4 * 10**9 + CONTEXT_BYTES), "fp32"),
        ("auto", "bf16", 10**9, gpu(4 * 10**9 + CONTEXT_BYTES - 1), "bf16"),
        ("fp32", "bf16", LARGE + 1, gpu(10**9), "fp32"),
        ("bf16", "fp32", 1, HOST, "bf16"),
    ],
)
def test_a_large_base_is_decoded_in_the_format_of_its_weights(asked, frozen, weights, device, chosen):
    assert decoding_precision(asked, frozen, weights, device) == chosen


def test_the_least_memory_is_that_of_training_or_of_decoding():
    trained = Sizes(total=1000, trained=100, cache=50, optimizer_bytes=800)
    assert least_bytes(trained, "bf16", "bf16", HOST) == 900 * 2 + 100 * (4 + 4 + 8 + 4)
    assert least_bytes(trained, "bf16", "fp32", HOST) == 1050 * 4
    assert least_bytes(trained, "bf16", "fp32", gpu(1)) == 1050 * 4 + CONTEXT_BYTES
    packed = Sizes(total=1000, trained=10, packed=900, packed_bytes=500, optimizer_bytes=80)
    assert least_bytes(packed, "bf16", "bf16", HOST) == 90 * 2 + 10 * 20 + 500
    whole = Sizes(total=GIB, trained=GIB, optimizer_bytes=8 * GIB)
    assert least_bytes(whole, "bf16", "bf16", HOST) == 20 * GIB
    assert least_bytes(whole, "bf16", "bf16", gpu(1)) == 16 * GIB + CONTEXT_BYTES  # the best is in the host's memory


def kinds(**methods):
    return {name: SimpleNamespace(method=method, quantize=quantize) for name, (method, quantize) in methods.items()}


def test_what_does_not_fit_a_gpu_is_one_line_and_a_processors_memory_may_be_exceeded():
    entries = kinds(lora=("lora", "none"), full=("full", "none"))
    check_room({"lora": 10, "full": 20}, "fp32", gpu(20), entries)
    check_room({"lora": 10, "full": 20}, "fp32", Facts("cpu", None, 1, 1, "fp32", False), entries)
    with pytest.raises(SetupError) as error:
        check_room({"lora": 10 * GIB, "full": 20 * GIB}, "fp32", gpu(16 * GIB), entries)
    assert str(error.value) == (
        "entries.full: does not fit: it takes at least 20.00 GiB of memory, 4.00 GiB more than cuda:0 has (16.00 GiB). "
        "Try: generation.precision: bf16, machine.shards, if there are several GPUs, a method that trains fewer "
        "weights, or a smaller base"
    )
    for quantize, offered in (("none", True), ("nf4", False)):
        with pytest.raises(SetupError) as error:
            check_room({"lora": 20 * GIB}, "bf16", gpu(16 * GIB), kinds(lora=("lora", quantize)))
        assert ("protocol.quantize: nf4" in str(error.value)) == offered
        assert "generation.precision" not in str(error.value)


def test_more_runs_at_once_than_fit_a_gpu_are_refused_and_said_how_many_do():
    least, entries = {"lora": 4 * GIB, "full": 9 * GIB}, kinds(lora=("lora", "none"), full=("full", "none"))
    check_room(least, "fp32", gpu(16 * GIB), entries, at_once=4)  # full beside three may not fit: the plan says so
    with pytest.raises(SetupError) as error:
        check_room(least, "fp32", gpu(16 * GIB), entries, at_once=5)
    assert str(error.value) == (
        "machine.workers: 5 runs at once on cuda:0 take at least 20.00 GiB of memory, and it has 16.00 GiB. "
        "Try: --workers, at most 4 for each device"
    )
    check_room(least, "fp32", HOST, entries, at_once=1000)


def test_a_gpu_whose_memory_others_hold_is_refused():
    least, entries = {"lora": 4 * GIB, "full": 9 * GIB}, kinds(lora=("lora", "none"), full=("full", "none"))
    check_room(least, "fp32", replace(gpu(16 * GIB), free_bytes=9 * GIB), entries)
    with pytest.raises(SetupError) as error:
        check_room(least, "fp32", replace(gpu(16 * GIB), free_bytes=6 * GIB - CONTEXT_BYTES), entries)
    assert str(error.value) == (
        "machine.device: cuda:0: other processes hold 10.00 GiB of its 16.00 GiB, and entries.full takes at least 9.00 "
        "GiB. Try: end them (nvidia-smi shows them), or machine.devices, without this one"
    )


@pytest.mark.parametrize(("workers", "devices", "expected"), [(None, 1, 1), (None, 4, 1), (3, 2, 2), (4, 2, 2)])
def test_runs_at_once_are_dealt_over_the_devices(monkeypatch, workers, devices, expected):
    monkeypatch.setattr(device, "devices_of", lambda _: ["cuda"] * devices)
    assert device.at_once(MachineConfig(workers=workers)) == expected


def test_a_bakeoff_that_does_not_fit_is_planned_and_not_run(tiny_config, monkeypatch):
    monkeypatch.setattr(plan, "survey", lambda _: gpu(CONTEXT_BYTES + 10**4))
    found = bakeoff.plan(tiny_config, {"protocol.precision": "bf16"})
    assert found["decoding_precision"] == "bf16"
    assert any(line.startswith("outputs are decoded in bf16, because") for line in found["data"]["findings"])
    assert all(row["least_bytes"] > found["memory_bytes"] for row in found["entries"].values())
    said = r"entries\.\w+: does not fit: it takes at least 300 MiB of memory, \d+ KiB more than cuda:0"
    with pytest.raises(SetupError, match=said):
        bakeoff.run(tiny_config, {"protocol.precision": "bf16"}, display="none")
    monkeypatch.setattr(plan, "survey", lambda _: HOST)
    assert bakeoff.plan(tiny_config)["decoding_precision"] == "fp32"


def test_an_accelerators_memory_sets_how_much_is_computed_at_once(base, monkeypatch):
    there = {"free": GIB, "total": 64 * GIB, "reserved": GIB, "allocated": GIB // 2}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (there["free"], there["total"]))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda _: there["reserved"])
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda _: there["allocated"])
    forward.total_bytes.cache_clear()
    words, width = base.model.get_output_embeddings().weight.shape
    on_gpu = SimpleNamespace(device=torch.device("cuda:0"), precision="fp32", model=base.model, beside=0)
    row = 2 * 2 * width * 4  # keys and values of a token in two blocks
    assert greedy.rows_at_once(base, GIB // row // 3) == 3
    assert greedy.rows_at_once(on_gpu, GIB // row // 3) == 2  # of 1.5 GiB, half
    beside = SimpleNamespace(**{**vars(on_gpu), "beside": 2})
    assert [greedy.rows_at_once(one, GIB // row // 30) for one in (on_gpu, beside)] == [22, 7]
    assert (greedy.rows_at_once(base, 1), greedy.rows_at_once(on_gpu, 1)) == (64, 256)
    assert forward.logits_at_once(base.model) == 2**28 // (4 * words)
    weight = SimpleNamespace(device=torch.device("cuda:0"), shape=(words, width))
    model = SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(weight=weight))
    assert forward.logits_at_once(model) == 2 * GIB // (4 * words)
    forward.total_bytes.cache_clear()

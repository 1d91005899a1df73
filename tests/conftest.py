"""Tiny things that tests share: a 2-layer model with a 300-word tokenizer, and a small data set."""

import gc
import json
import os
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ONEAPI_DEVICE_SELECTOR": "!*:gpu"}

WORDS = [a + b for a in "bdfgklmnprstvz" for b in "a e i o u ab eb ib ob ub an en in on un".split()]  # noqa: SIM905
END = "<|endoftext|>"
HEAVY = int(os.environ.get("BAKEOFF_FUZZ", "0"))


def pytest_configure(config):
    """Hide every GPU, before torch is imported, unless tests of one were asked for."""
    if config.getoption("markexpr") == "gpu":
        # For the deterministic test: torch looks at it when this process computes its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    else:
        os.environ.update(NO_GPU)


def many(quick):
    """Return hypothesis' settings: the same `quick` cases in every run, or as many others as BAKEOFF_FUZZ says."""
    return settings(
        max_examples=HEAVY or quick, deadline=None, derandomize=not HEAVY, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory):
    """Keep the key that signs run folders out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _in_process():
    """Let bakeoffs run in this process: starting another, which loads the libraries anew, takes seconds."""
    from bakeoff import running

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "LocalExecutor", lambda _: Inline())
        yield


@pytest.fixture(scope="session", autouse=True)
def _frozen():
    """Keep the libraries' half a million objects out of every collection: runs collect, as on a device they must."""
    import altair  # noqa: F401
    import peft  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_figures():
    """Let bakeoffs that run in this process write reports without figures: they take longer than tiny runs."""
    from bakeoff.report import writing
    from bakeoff.report.figures import Axes, Figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "draw_figures", lambda _: Figures(Axes([], [], {}), [], [], [], [], [], [], []))
        yield


@contextmanager
def with_figures():
    """Let reports have their figures, as they do for a user."""
    from bakeoff.report import figures, writing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "draw_figures", figures.draw_figures)
        yield


@pytest.fixture(scope="module")
def figures():
    """Let the reports of a module's tests have their figures."""
    with with_figures():
        yield


@pytest.fixture
def processes(monkeypatch):
    """Let bakeoffs start processes for their runs, as they do for a user."""
    from bakeoff import running
    from bakeoff.driver.executor import LocalExecutor

    monkeypatch.setattr(running, "LocalExecutor", LocalExecutor)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A seeded random GPT-2 of two blocks in a folder, with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = [END, "[UNK]", "TL", "DR", ";", ":", ".", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END, unk_token="[UNK]"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # a flat random model would give every method the same logits
    model.save_pretrained(folder)
    return folder


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Return rows whose summary is the document's first three words: a task that can be learnt."""
    chosen = random.Random(seed)
    rows = []
    for _ in range(count):
        words = chosen.choices(WORDS, k=chosen.randint(6, 24))
        rows.append({"document": " ".join(words), "summary": " ".join(words[:3])})
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_splits(folder: Path) -> dict[str, str]:
    """Write a small train, validation and test file; return their paths."""
    sizes = {"train": 40, "validation": 8, "test": 10}
    return {s: str(write_rows(folder / f"{s}.jsonl", make_rows(n, i))) for i, (s, n) in enumerate(sizes.items())}


@pytest.fixture
def data_files(tmp_path):
    """Paths of a small train, validation and test file."""
    return write_splits(tmp_path)


@pytest.fixture
def tiny_config(tiny_model, data_files, tmp_path):
    """A config of three entries over the tiny model and data, as a mapping."""
    return {
        "name": "tiny",
        "model": str(tiny_model),
        "data": data_files,
        "entries": {
            "prompt_tuning": {"num_virtual_tokens": 4},
            "last_layers": {},
            "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]},
        },
        "tune": None,
        "protocol": {"epochs": 2, "max_tokens": 48, "seeds": 1},
        "output": str(tmp_path / "bakeoffs/tiny"),
    }


@pytest.fixture
def base(tiny_model):
    """The tiny model, loaded."""
    from bakeoff.compute.model.base import load_base

    return load_base(str(tiny_model), "fp32")


@pytest.fixture(scope="session")
def shared(tmp_path_factory, tiny_model):
    """One finished bakeoff that several tests look at and none changes."""
    import bakeoff

    tmp = tmp_path_factory.mktemp("shared")
    config = {
        "name": "shared",
        "model": str(tiny_model),
        "data": write_splits(tmp),
        "entries": {"prompt_tuning": {"num_virtual_tokens": 4}, "last_layers": {"learning_rate": 0.01},
                    "lora": {"r": 4, "learning_rate": 0.01}},
        "tune": None,
        "protocol": {"epochs": 2, "max_tokens": 48, "evaluate_every": 3, "seeds": 1},
        "output": str(tmp / "out"),
    }  # fmt: skip
    with with_figures():
        return config, bakeoff.run(config, display="none")


@pytest.fixture
def copied(shared, tmp_path):
    """The folder of a copy of that bakeoff, which a test may change or run again."""
    from bakeoff.store.run_folder import Folder

    return Folder(shutil.copytree(shared[1].folder.path, tmp_path / "copy"))


@pytest.fixture
def distinct(copied):
    """A finished bakeoff in which two entries never write the same, and one writes markup."""
    from bakeoff.store.files import write_jsonl

    for number, entry in enumerate(("lora", "last_layers")):
        files = copied.run(next(run.id for run in copied.runs() if run.entry == entry))
        rows = [
            row.row() | {"output": f"{row.output} {'<b>so</b> ' * (1 + (i + number) % 2)}{number}"}
            for i, row in enumerate(files.predictions())
        ]  # fmt: skip
        write_jsonl(files.predictions_file, rows)
        files.write_result(files.result())
    return copied


def inline(path, tasks, _=None):
    """Carry out runs in this process."""
    from bakeoff.compute.run.execution import execute

    for task in tasks:
        events = []
        execute(path, task.run.id, task.left, events.append)
        yield from events


def plan_with(facts):
    """Return a plan that says this, and of all else as little as it may."""
    from bakeoff.store.plan_document import PlanDocument

    none = {"prompt": 0, "target": 0, "example": 0}
    entry = {"method": "lora", "steps": 10, "tuning": "off", "trials": 0, "trial_steps": 0, "search": {},
             "trial_points": [], "learning_rate": None, "least_bytes": 1, "trainable_parameters": 1,
             "total_parameters": 1, "trainable_percent": 100.0, "step_products": none,
             "trunk_products": none}  # fmt: skip
    model = {"name": "base", "revision": None, "identity": None, "context": 64, "total_parameters": 1,
             "forward_products": none, **facts.get("model", {})}  # fmt: skip
    splits = {split: {"examples": 1} for split in ("train", "validation", "test")}
    data = {"source": "", "identity": "", "findings": [], "splits": splits | facts["data"]["splits"]}
    whole = {
        "schema": 3, "name": "planned", "version": "0", "precision": "fp32", "template": "", "primary": "rougeL",
        "config": {},
        "metrics": [{"name": "rougeL", "heading": "ROUGE-L", "bounded": True}], "score_signature": "", "max_tokens": 48,
        "output_tokens": 8, "rungs": [], "epochs": 1, "memory_bytes": 2**30, "counts": None, "not_run": {}, "runs": [],
    }  # fmt: skip
    entries = {name: entry | given for name, given in facts["entries"].items()}
    return PlanDocument.model_validate(whole | facts | {"model": model, "data": data, "entries": entries})


class Inline:
    """An executor that starts no process: a test's own way of carrying out runs, or the plain one."""

    slots = ("this process",)

    def __init__(self, run=inline):
        self.carry_out = run

    def run(self, path, ready, stop=bool):
        return self.carry_out(path, ready.in_order(), stop)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start_early(self):
        pass

    def spread(self, devices):
        pass

    def take_over(self, folder, say):
        from bakeoff.driver import left_jobs

        left_jobs.ended(folder, say)

"""A finished bakeoff with other metrics: its plan comes from the last one, without torch, and is the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bakeoff
from bakeoff.compute.model.loading import load_tokenizer
from bakeoff.config.loading import load_config
from bakeoff.driver.again import plan_again
from bakeoff.driver.plan import make_plan
from bakeoff.errors import ConfigError
from bakeoff.store.run_folder import Folder
from tests.conftest import write_splits

METRICS = {"metrics": ["exact_match_squad", "chrf"], "primary": "chrf"}


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """The config of a finished bakeoff with trials, whose targets hold what one of the metrics does not see."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_splits(folder)
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        rows = [{**row, "summary": f" {row['summary']} ; -3.5"} for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "tiny", "model": str(tiny_model), "data": data,
        "entries": {"lora": {"r": 2}, "prompt_tuning": {"num_virtual_tokens": 4, "learning_rate": 0.01}},
        "tune": {"budget": 18}, "baselines": ["base", "lead-1"],
        "protocol": {"epochs": 2, "max_tokens": 48, "seeds": 1}, "output": str(folder / "out"),
    }  # fmt: skip
    bakeoff.run(config, display="none")
    return config


@pytest.fixture
def config(finished, tmp_path):
    """Its config in a copy of its folder."""
    shutil.copytree(finished["output"], tmp_path / "out")
    return {**finished, "output": str(tmp_path / "out")}


def again(config, **changes):
    return plan_again(load_config({**config, **changes}), Folder(config["output"]))


def test_it_is_the_plan_that_is_made_anew(config):
    given = load_config({**config, **METRICS})
    fast, folder = again(config, **METRICS), Folder(config["output"])
    full = make_plan(given, load_tokenizer(given.model, given.pin), folder)
    assert fast.document.row() == full.document.row()
    assert (fast.runs, fast.held_equal, fast.virtual_tokens) == (full.runs, full.held_equal, full.virtual_tokens)
    assert {name: entry.trial_points for name, entry in fast.entries.items()} == {
        name: entry.trial_points for name, entry in full.entries.items()
    }
    assert any(line.startswith("metrics: exact_match_squad") for line in fast.document.data.findings)
    assert fast.document.texts


def test_a_bakeoff_with_another_metric_loads_no_torch(config, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({**config, **METRICS}))
    code = (
        "import sys, json, bakeoff\n"
        f"results = bakeoff.run(json.load(open({str(tmp_path / 'c.json')!r})), display='none')\n"
        "assert 'test/chrf' in results.entries['lora'].metrics, results.entries\n"
        "print(results.document.status, sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["done []"], done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": {"max_new_tokens": 3}},
        {"baselines": ["base"]},
        {"tune": {"trials": 2}},
        {"template": "{{ document }}\n;"},
        {"protocol": {"epochs": 2, "max_tokens": 40, "seeds": 1}},
    ],
)
def test_other_changes_need_a_plan_made_anew(config, changes):
    assert again(config, **METRICS) is not None
    assert again(config, **METRICS, **changes) is None


def test_limits_and_trackers_need_no_plan_made_anew(config):
    changes = {"safety": {"checkpoint_seconds": 5.0}, "trackers": ["tensorboard"]}
    document = again(config, **METRICS, **changes).document
    assert document.config["safety"]["checkpoint_seconds"] == 5.0
    assert document.config["trackers"] == ["tensorboard"]


def test_changed_data_need_a_plan_made_anew(config):
    file = Path(config["data"]["test"])
    text = file.read_text()
    file.write_text(text.replace("-3.5", "-3.6", 1))
    assert again(config, **METRICS) is None
    file.write_text(text)
    assert again(config, **METRICS) is not None


def edit(file, change):
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.mark.parametrize("state", ["plan", "tag", "machine", "run", "tokens"])
def test_a_folder_that_was_not_left_so_here_needs_a_plan_made_anew(config, state):
    folder = Folder(config["output"])
    if state == "plan":
        edit(folder.plan_file, lambda plan: {**plan, "memory_bytes": 1})
    elif state == "tag":
        edit(folder.tag_file, lambda tag: {**tag, "signature": "0" * 64})
    elif state == "machine":
        edit(folder.environment_file, lambda facts: {**facts, "rouge-score": "0.0"})
    elif state == "run":
        next(folder.path.glob("runs/lead-1-*/result.json")).unlink()
    else:
        folder.tokens_file("train").write_bytes(b"")
    assert again(config, **METRICS) is None


def test_a_metric_that_cannot_score_is_refused_before_anything_runs(config):
    with pytest.raises(ConfigError, match=r"none\.py:f: cannot be imported"):
        bakeoff.run({**config, "metrics": ["none.py:f"]}, display="none")

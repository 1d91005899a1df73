"""Tuned bakeoffs over the tiny model: trials, halving, extension, adoption, and going on after an interrupt."""

import json
import shutil

import pytest

import bakeoff
from bakeoff.config import load_config
from bakeoff.records import Folder, write_json

SEEDS = (5, 6)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, tiny_model):
    """One finished bakeoff with two tuned entries and a fixed one."""
    from tests.conftest import make_rows, write_rows

    tmp = tmp_path_factory.mktemp("tuned")
    sizes = {"train": 40, "validation": 8, "test": 10}
    config = {
        "name": "tuned",
        "model": str(tiny_model),
        "data": {s: str(write_rows(tmp / f"{s}.jsonl", make_rows(n, i))) for i, (s, n) in enumerate(sizes.items())},
        "entries": {
            "lora": {"r": 4, "lora_dropout": 0.1},
            "wide": {"method": "last_layers", "learning_rate": {"low": 1e-5, "high": 1e-3}},
            "fixed": {"method": "last_layers", "learning_rate": 0.01},
        },
        "protocol": {"epochs": 2, "max_tokens": 48, "seed": SEEDS[0], "seeds": 2},
        "output": str(tmp / "out"),
    }
    return config, bakeoff.run(config, display="none")


def test_x(tuned):
    config, results = tuned
    print(json.dumps(results.document["entries"]["wide"], indent=1))
    print(json.dumps(results.document["entries"]["lora"]["tuning"], indent=1))
    assert 0

"""The examples for clusters: what they start is the command, with options that it has."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bakeoff.config.loading import load_config

FOLDER = Path(__file__).parent.parent / "examples/cluster"
FILES = sorted(FOLDER.iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_settings_in_an_example_are_of_the_config(file):
    text = file.read_text()
    assert "bakeoff" in text
    asked = dict(pair.split("=", 1) for pair in re.findall(r"-s '?(\w+\.\w+=(?:\{[^}]*\}|\w+))", text))
    assert "--executor ray" in text or file.name == "Dockerfile"
    values = {key: yaml.safe_load(value) for key, value in asked.items()}
    load_config({"data": "docstrings", "entries": ["lora"]}, {"machine.executor": "ray", **values})


@pytest.mark.parametrize("file", [file for file in FILES if file.suffix == ".yaml"], ids=lambda file: file.name)
def test_an_example_asks_for_one_gpu_on_each_worker_and_none_on_the_head(file):
    found = yaml.safe_load(file.read_text())
    if "spec" in found:
        (worker,) = found["spec"]["workerGroupSpecs"]
        (container,) = worker["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert found["spec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    else:
        types = found["available_node_types"]
        assert types[found["head_node_type"]]["resources"] == {"CPU": 0}
        assert types["gpu"]["resources"]["GPU"] == 1


def test_the_slurm_script_is_bash():
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sbatch")], check=True)

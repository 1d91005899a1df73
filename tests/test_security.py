"""What comes from elsewhere - data, models, run folders - runs no code here, and reaches no file outside of its own."""

import ast
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import constants

import bakeoff
from bakeoff import reporting
from bakeoff.cli.main import main
from bakeoff.compute.model.adapter_files import load_adapter
from bakeoff.config.loading import load_config
from bakeoff.driver.trust import is_own
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.hub import fetch
from bakeoff.store.run_folder import Folder
from tests.conftest import write_rows
from tests.test_imports import SOURCE, modules

READS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code"}
CALLS = {"torch.load", "numpy.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen"}
NETWORK = {"requests", "httpx", "urllib", "http", "aiohttp", "ftplib", "smtplib"}


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_no_module_can_read_a_pickle_or_run_text_and_only_the_hubs_knows_a_network():
    for name, path in modules(SOURCE).items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            rooms = {module.partition(".")[0] for module in found if module != "urllib.parse"}  # reads addresses alone
            assert not rooms & READS_CODE, name
            # what is exported is tried in a server of its own on this machine
            assert not rooms & NETWORK or name == "export.llama_cpp", name
            # a model card's front matter is made by the hub's own class, which asks no network
            knows = ("hub", "data.hub_dataset", "report.cards", "export.hub")
            assert name in knows or "huggingface_hub" not in rooms, name
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, name
                if ast.unparse(node.func) == "yaml.load":
                    assert ast.unparse(node.args[1]) == "UniqueKeys", name
                if any(k.arg == "shell" for k in node.keywords):
                    raise AssertionError(f"{name}: a shell")


def test_yaml_makes_no_objects(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{tmp_path}/ran]\n")
    with pytest.raises(BakeoffError, match="not valid YAML"):
        load_config(file)
    with pytest.raises(BakeoffError):
        load_config({}, {"name": f"!!python/object/apply:os.mkdir [{tmp_path}/ran]"})
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_an_adapter_is_never_read(base, shared, tmp_path):
    _, results = shared
    shutil.copytree(results.entry("lora").adapter, tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    (tmp_path / "adapter/adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(SetupError, match="adapter_model.bin, a pickle, which can run any code"):
        load_adapter(base, tmp_path / "adapter")
    assert not (tmp_path / "ran").exists()


def test_a_models_pickles_and_code_are_not_run(tiny_config, tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(SetupError, match="a pickle, which can run any code"):
        bakeoff.run({**tiny_config, "model": str(folder)}, display="none")
    shutil.copy(tiny_model / "model.safetensors", folder)
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    words = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(words))
    with pytest.raises(SetupError):
        bakeoff.run({**tiny_config, "model": str(folder)}, display="none")
    assert not (tmp_path / "ran").exists()


def test_links_and_indices_in_a_model_folder_do_not_leave_it(tiny_model, tmp_path):
    folder = tmp_path / "deep/er/model"
    shutil.copytree(tiny_model, folder)
    fetch(str(folder))
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(SetupError, match="model.safetensors is a link to a file outside of the folder"):
        fetch(str(folder))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "../../../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SetupError, match="names files outside of the model's folder"):
        fetch(str(folder))


@pytest.mark.parametrize("name", ["../out", "/etc", "a/b", "..", "", "a\nb", "\x00"])
def test_names_never_become_paths(tiny_config, name):
    with pytest.raises(BakeoffError):
        load_config({**tiny_config, "name": name})
    with pytest.raises(BakeoffError):
        load_config({**tiny_config, "entries": {name: {"method": "lora"}}})
    with pytest.raises(SetupError, match="not the id of a run"):
        Folder("x").run(name)


def test_a_run_folder_from_elsewhere_names_no_run_outside_of_it(shared, tmp_path):
    _, results = shared
    folder = Folder(tmp_path / "copy")
    shutil.copytree(results.folder.path, folder.path)
    plan = folder.plan().row()
    plan["runs"][-1]["id"] = "../../../victim"
    folder.plan_file.write_text(json.dumps(plan))
    with pytest.raises(SetupError, match=r"damaged \(runs\.\d+: id: "):
        bakeoff.load_results(folder.path)
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    words = yaml.safe_load(results.folder.config_file.read_text()) | {"metrics": ["rouge", f"{tmp_path}/own.py:run"]}
    folder.config_file.write_text(yaml.safe_dump(words))
    shutil.copy(results.folder.plan_file, folder.plan_file)
    reporting.refresh_report(folder.path)  # code that a config names is for `bakeoff run` alone
    assert not (tmp_path / "ran").exists()
    run = next(iter((folder.path / "runs").iterdir()))
    started = json.loads((run / "run.json").read_text()) | {"id": "other"}
    (run / "run.json").write_text(json.dumps(started))
    with pytest.raises(SetupError, match="no run was started here"):
        folder.run(run.name).run()


def test_ids_and_texts_in_data_make_no_files(tiny_config, tmp_path, monkeypatch):
    """A whole bakeoff over hostile rows writes below its folder alone, and asks no network for anything."""

    def refuse(*args, **_):
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    rows = [json.loads(line) for line in Path(tiny_config["data"]["test"]).read_text().splitlines()]
    hostile = "<script>alert(1)</script> {{ 7*7 }} ../../../../ran"
    rows = [
        {
            **row,
            "id": f"../../../ran{i}",
            "document": f"{row['document']} {hostile}",
            "summary": f"{' '.join([row['summary']] * 4)} <script>alert",  # most of a target must be known words
        }
        for i, row in enumerate(rows)
    ]
    test = write_rows(tmp_path / "hostile.jsonl", rows)
    tiny_config["data"] = {**tiny_config["data"], "test": str(test)}
    tiny_config["entries"] = {"lora": {"r": 2}}
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    output = Path(tiny_config["output"])
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert results.document.status == "done"
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(output) for path in after)
    page = results.folder.report_file.read_text()
    assert "<script>alert" not in page
    assert "{{ 7*7 }}" in page  # shown as it stands: nothing is evaluated
    assert yaml.safe_load(results.folder.config_file.read_text())["name"] == "tiny"


HOSTILE = ("random", "queue", "peft", "torch", "csv", "email", "json", "bakeoff_score", "bitsandbytes", "tensorflow")


def test_the_working_folder_is_not_imported_from(tiny_config, tmp_path):
    """Neither by a command nor by its processes; PYTHONPATH counts as ever."""
    here, ran = tmp_path / "downloads", tmp_path / "ran"
    here.mkdir()
    for name in HOSTILE:
        (here / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\nraise SystemExit(7)\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/bakeoff_score.py").write_text("def score(output, references):\n    return 1.0\n")
    tiny_config |= {"entries": {"lora": {"r": 2}}, "baselines": ["base"], "metrics": ["bakeoff_score:score"]}
    (here / "c.yaml").write_text(yaml.safe_dump(tiny_config))
    path = os.pathsep.join(filter(None, [str(tmp_path / "mine"), os.environ.get("PYTHONPATH")]))
    script = Path(sys.executable).with_name("bakeoff")
    for command in (
        [script, "run", "c.yaml", "-s", "protocol.epochs=1", "--display", "none"],
        [sys.executable, "-m", "bakeoff", "show", tiny_config["output"]],
    ):
        done = subprocess.run(command, cwd=here, env={**os.environ, "PYTHONPATH": path}, text=True, capture_output=True)
        assert not ran.exists(), (command, ran.read_text())
        assert done.returncode == 0, done.stderr
    # the working folder was searched, but for what nothing else has: python -P is what every process starts with
    # (llama.cpp's converter, which a person names, finds its parts in its own folder)
    own = ("child_process", "export.llama_cpp")
    texts = {name: file.read_text() for name, file in modules(SOURCE).items() if name not in own}
    assert not [name for name, text in texts.items() if "sys.executable" in text and 'sys.executable, "-I"' not in text]


def test_a_run_folder_from_elsewhere_asks_before_it_runs_code(shared, copied, tmp_path):
    """What its config.yaml names beyond reading is one line until --trust; show, report and watch never do it."""
    _, results = shared
    ran, function = tmp_path / "ran", tmp_path / "own.py"
    function.write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef score(*_):\n    return 1.0\n")
    words = yaml.safe_load(copied.config_file.read_text()) | {"output": None}

    def ask(*command, **changes):
        copied.config_file.write_text(yaml.safe_dump(words | changes))
        return CliRunner().invoke(main, [*map(str, command)], input="ba be")

    text = copied.config_file.read_bytes()
    assert CliRunner().invoke(main, ["generate", str(copied.path)], input="ba be").exit_code == 0  # as it was made here
    for wish, message in (
        ({"metrics": [f"{function}:score"]}, f"uses the model in {words['model']}, the function "),
        ({"trust_remote_code": words["model"]}, "uses the code of the model "),
        ({"trackers": ["tensorboard"]}, "the tracker tensorboard. Try: read it, then add --trust"),
    ):
        for command in ("run", "plan"):
            refused = ask(command, copied.config_file, **wish)
            assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
            assert message in refused.stderr
        for command in ("show", "report", "watch"):
            assert ask(command, copied.path, **wish).exit_code == 0
    assert not ran.exists()
    refused = ask("generate", copied.path, metrics=[f"{function}:score"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert f"uses the model in {words['model']}. Try: read it, then add --trust" in refused.stderr
    assert ask("generate", copied.path, "--trust", metrics=[f"{function}:score"]).exit_code == 0
    assert not ran.exists()  # generating scores nothing
    assert ask("plan", copied.config_file, "--trust", metrics=[f"{function}:score"]).exit_code == 0
    assert ran.exists()
    mine = tmp_path / "mine.yaml"  # a person's own config needs no flag
    mine.write_bytes(text)
    assert CliRunner().invoke(main, ["plan", str(mine)]).exit_code == 0


def test_a_folder_is_ones_own_by_a_key_that_stays_at_home(shared, copied, monkeypatch, tmp_path):
    config, _ = shared
    assert is_own(copied)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    assert not is_own(copied)
    assert (tmp_path / "another user/bakeoff/key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/no home")
    assert not is_own(copied)
    assert bakeoff.run({**config, "output": str(copied.path)}, display="none").document.status == "done"

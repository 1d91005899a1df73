"""Model files from a folder, the cache and the hub; the hub is a server on the loopback interface (loopback_hub)."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy
import pyarrow
import pytest
import yaml
from huggingface_hub import constants
from pyarrow import parquet
from safetensors.numpy import load, save

from bakeoff import hub
from bakeoff.cli import doctor
from bakeoff.compute.model.base import load_base, load_tokenizer, shape_only
from bakeoff.config.sections import Pin
from bakeoff.data.hub_dataset import HubDataset
from bakeoff.errors import SetupError
from tests.conftest import make_rows
from tests.loopback_hub import LoopbackHub, Repository

CHUNK = constants.DOWNLOAD_CHUNK_SIZE  # what the client has written before a download breaks off, it does not ask again


def copied(model, target, **texts):
    """Return a copy of a model folder with some files' texts replaced; None leaves a file out."""
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    for name, text in texts.items():
        path = target / name.replace("__", ".")
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
    return target


def changed(model, file, **values):
    return json.dumps(json.loads((model / file).read_text()) | values)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    class Silent:
        def head(self, *arguments, **options):
            asked.append(arguments)
            raise ConnectionError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_session", Silent)
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=lambda: 0.0))
    hub.hub_answers.cache_clear()
    try:
        for attempt in (shape_only, hub.fetch):
            with pytest.raises(
                SetupError,
                match="model: no-such-model: no such folder, not complete in the hub's cache, .* does not answer",
            ) as caught:
                attempt("no-such-model")
            assert "\n" not in str(caught.value)
        assert hub.commit("no-such-model", None) is None
        assert len(asked) == 1
    finally:
        hub.hub_answers.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.\nMore"),
        ValueError("Unknown scheme for proxy URL"),
        FileNotFoundError(2, "No such file or directory"),
    ],
)
def test_a_client_that_cannot_be_set_up_is_no_hub_that_does_not_answer(monkeypatch, error):
    def broken():
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_session", broken)
    hub.hub_answers.cache_clear()
    said = f"the hub cannot be asked ({hub.first_line(error)}"
    for attempt in (lambda: hub.fetch("no-such-model"), lambda: HubDataset("no-one/no-such-data", None, None)):
        with pytest.raises(SetupError) as caught:
            attempt()
        assert str(caught.value).startswith(said)
        assert "Fix the proxy and certificate settings" in str(caught.value)
        assert "\n" not in str(caught.value)
    check = doctor.hub()
    assert check.status == "problem"
    assert check.text.startswith(said)


def test_a_folder_that_is_no_whole_model_is_explained(tiny_model, tmp_path):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    cases = {
        "pickled": ({"model__safetensors": None, "pytorch_model__bin": "x"}, "only pytorch_model.bin, a pickle"),
        "none": ({"model__safetensors": None}, "has no safetensors weights. "),
        "shards": (
            {"model__safetensors": None, "model__safetensors__index__json": index},
            "2 of 2 weight files are missing",
        ),
        "note": ({"model__safetensors": note}, "git lfs pull"),
        "damaged": ({"model__safetensors": "safe"}, "model.safetensors is damaged"),
    }
    for name, (texts, message) in cases.items():
        with pytest.raises(SetupError, match=message) as caught:
            hub.fetch(str(copied(tiny_model, tmp_path / name, **texts)))
        assert "\n" not in str(caught.value)
    with pytest.raises(SetupError, match="revision: main: only hub models have one"):
        hub.commit(str(tiny_model), "main")


def test_a_model_of_another_kind_is_refused(tiny_model, tmp_path):
    masked = copied(
        tiny_model, tmp_path / "a", config__json=changed(tiny_model, "config.json", architectures=["BertForMaskedLM"])
    )
    with pytest.raises(SetupError, match="BertForMaskedLM does not generate text"):
        shape_only(str(masked))
    deeper = copied(tiny_model, tmp_path / "b", config__json=changed(tiny_model, "config.json", n_layer=3))
    with pytest.raises(SetupError, match=r"12 tensors of GPT2LMHeadModel are missing in its weights \(transformer.h.2"):
        load_base(str(deeper), "fp32")
    unknown = copied(tiny_model, tmp_path / "c", config__json='{"model_type": "none-such"}')
    with pytest.raises(SetupError, match=r"cannot be loaded \(.*none-such"):
        shape_only(str(unknown))


def test_a_models_own_code_runs_only_where_it_is_named(tiny_model, tmp_path):
    ran = tmp_path / "ran"
    code = (
        f"from pathlib import Path\nfrom transformers import GPT2Config\nPath({str(ran)!r}).touch()\n\n\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n"
    )
    own = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    folder = copied(
        tiny_model, tmp_path / "own", configuration_own__py=code, config__json=changed(tiny_model, "config.json", **own)
    )
    with pytest.raises(SetupError, match=f"its own code, .*trust_remote_code: {folder}"):
        shape_only(str(folder))
    assert not ran.exists()
    from bakeoff.compute.model.base import load_shape

    assert type(load_shape(str(folder), Pin(remote_code=True))).__name__ == "OwnConfig"
    assert ran.exists()
    own["auto_map"] = {"AutoConfig": "someone/else--configuration_own.OwnConfig"}
    (folder / "config.json").write_text(changed(tiny_model, "config.json", **own))
    with pytest.raises(SetupError, match="needs code from someone/else"):
        shape_only(str(folder), Pin(remote_code=True))


def test_a_tokenizer_without_a_pad_token_will_do(tiny_model, tmp_path):
    texts = {"tokenizer_config__json": changed(tiny_model, "tokenizer_config.json", pad_token=None)}
    folder = copied(tiny_model, tmp_path / "m", special_tokens_map__json=None, **texts)
    assert load_tokenizer(str(folder)).pad_token is None
    assert load_base(str(folder), "fp32").pad == load_tokenizer(str(tiny_model)).eos_token_id


def test_a_tokenizer_is_read_once_while_its_files_stay_as_they_are(tiny_model, tmp_path):
    folder = copied(tiny_model, tmp_path / "m")
    tokenizer = load_tokenizer(str(folder))
    assert load_base(str(folder), "fp32").tokenizer is tokenizer
    (folder / "tokenizer_config.json").write_text(changed(tiny_model, "tokenizer_config.json", pad_token=None))
    assert load_tokenizer(str(folder)).pad_token is None


PYTHON = "import json, sys\nfrom bakeoff import errors, hub\nfrom bakeoff.config.sections import Pin\n"


def start(home, endpoint, *command, offline=False):
    """Run Python in a process with a cache of its own and the loopback hub."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tiny_model):
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    return Repository(files | {"onnx/config.json": b"{}", "pytorch_model.bin": b"never read", "README.md": b"tiny"})


@pytest.fixture(scope="module")
def dataset():
    files = {"README.md": b"# rows"}
    for seed, (split, count) in enumerate({"train": 40, "validation": 8, "test": 10}.items()):
        content = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(make_rows(count, seed)), content)
        files[f"data/{split}-00000-of-00001.parquet"] = content.getvalue()
    return Repository(files)


def test_a_bakeoff_by_hub_ids_pins_its_commit_and_goes_on_without_the_hub(repository, dataset, tmp_path):
    weights = load(repository.files["model.safetensors"]) | {"unused": numpy.zeros(CHUNK // 8)}
    repository.files["model.safetensors"] = save(weights, {"format": "pt"})
    repository.broken = {"model.safetensors"}
    loopback = LoopbackHub({("models", "someone/tiny"): repository, ("datasets", "someone/rows"): dataset})
    config = {
        "model": "someone/tiny", "data": "someone/rows", "entries": {"lora": {"r": 2, "learning_rate": 0.01}},
        "baselines": ["base"], "protocol": {"epochs": 1, "seeds": 1, "max_tokens": 48}, "tune": "off",
        "output": str(tmp_path / "out"),
    }  # fmt: skip
    file = tmp_path / "bakeoff.yaml"
    file.write_text(yaml.safe_dump(config))
    command = ("-m", "bakeoff", "run", str(file), "--display", "plain")
    with loopback.serving() as endpoint:
        ran = start(tmp_path / "home", endpoint, *command)
    assert ran.returncode == 0, ran.stderr
    fetched = {path for method, path, _ in loopback.asked if method == "GET" and "/resolve/" in path}
    names = {path.rpartition("/")[2] for path in fetched if path.startswith("/someone/tiny/")}
    assert "model.safetensors" in names
    assert names.isdisjoint({"pytorch_model.bin", "README.md"})
    assert not any("/onnx/" in path for path in fetched)
    assert [r for _, path, r in loopback.asked if path.endswith("model.safetensors") and r] == [f"bytes={CHUNK}-"]
    out = tmp_path / "out"
    model = json.loads((out / "plan.json").read_text())["model"]
    assert json.loads((out / "plan.json").read_text())["data"]["splits"]["train"]["examples"] == 40
    assert (model["name"], model["revision"]) == ("someone/tiny", repository.commit)
    assert model["weights"] == {"model.safetensors": repository.row("model.safetensors")["lfs"]["oid"]}
    assert yaml.safe_load((out / "config.yaml").read_text())["revision"] == repository.commit
    adapter = next(out.glob("runs/lora-*/adapter"))
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/tiny"
    asked = len(loopback.asked)
    next(out.glob("runs/lora-*/result.json")).unlink()
    again = start(tmp_path / "home", endpoint, *command, offline=True)
    assert again.returncode == 0, again.stderr
    assert len(loopback.asked) == asked


def test_models_and_datasets_that_cannot_be_had_are_one_line(repository, dataset, tmp_path):
    files = repository.files
    loopback = LoopbackHub(
        {
            ("models", "a/gated"): Repository(files, gated=True),
            ("models", "a/lacking"): Repository(files, unserved={"tokenizer.json"}),
            ("models", "a/pickled"): Repository({k: v for k, v in files.items() if k != "model.safetensors"}),
            ("models", "a/whole"): Repository(files),
            ("datasets", "a/gated"): Repository(dataset.files, gated=True),
            ("datasets", "a/lacking"): Repository(dataset.files, unserved={"data/test-00000-of-00001.parquet"}),
        }
    )
    asked = [
        ("a/gated", None),
        ("a/none", None),
        ("a/lacking", None),
        ("a/pickled", None),
        ("a/whole", "v9"),
        ("a b", None),
    ]
    code = PYTHON + (
        "for name, revision in json.loads(sys.argv[1]):\n"
        "    try:\n        hub.fetch(name, Pin(hub.commit(name, revision)))\n"
        "    except errors.BakeoffError as error:\n        print(json.dumps(str(error)))\n"
    )
    code += (
        "from bakeoff.data.sources import load_examples\nfrom bakeoff.config.data import DataConfig\n"
        "for name in ('a/gated', 'a/none', 'a/lacking'):\n"
        "    try:\n        load_examples(DataConfig(source=name))\n"
        "    except errors.BakeoffError as error:\n        print(json.dumps(str(error)))\n"
    )
    with loopback.serving() as endpoint:
        done = start(tmp_path / "home", endpoint, "-c", code, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [
        f"model: a/gated: gated: request access on {endpoint}/a/gated. Then it needs a token",
        "model: a/none: the hub has no such model, or it is private. ",
        "model: a/lacking: the hub lists a file that it does not have. ",
        "model: a/pickled: has no safetensors weights. Try: a revision that has them",
        "model: a/whole: no revision 'v9'. Allowed: a branch, tag or commit",
        "model: a b: neither a folder nor a hub id. ",
        "data.source: a/gated: cannot be loaded (Dataset 'a/gated' is a gated dataset on the Hub.",
        "data.source: a/none: cannot be loaded (Dataset 'a/none' doesn't exist on the Hub",
        "data.source: a/lacking: cannot be loaded (",
    ]
    assert len(messages) == len(expected)
    for message, start_of_it in zip(messages, expected, strict=True):
        assert message.startswith(start_of_it)
        assert "\n" not in message

"""An adapter that is damaged, another's or hostile is refused in one line, whatever the method; a whole one loads."""

import copy
import json
import os
import shutil
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import bakeoff
from bakeoff.compute.model.adapter_files import load_adapter, save_adapter
from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.training.loss import evaluate_loss
from bakeoff.config.loading import load_config
from bakeoff.errors import SetupError
from bakeoff.methods import build_method, method_class
from bakeoff.methods.base_weights import BaseWeights
from bakeoff.testing import ROWS

NAMES = [
    "lora", "pissa", "adalora", "ia3", "vera", "trainable_tokens", "prompt_tuning", "p_tuning", "prefix_tuning",
    "layer_norm", "last_layers", "full",
]  # fmt: skip
EVIL = "(x+x+)+y"  # a pattern that backtracks for ever on a long name


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model):
    """A folder with a saved adapter of each method, and the losses that each has."""
    folder, losses = tmp_path_factory.mktemp("adapters"), {}
    config = load_config({"model": str(tiny_model), "data": "docstrings", "entries": ["lora"]})
    for name in NAMES:
        method = build_method(name, {"method": name, **method_class(name).tiny})
        base = load_base(str(tiny_model), "fp32")
        torch.manual_seed(1)
        adapted = adapt(base, method)
        with torch.no_grad():
            for parameter in trainable(adapted).values():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        save_adapter(folder / name, adapted, method, config)
        losses[name] = evaluate_loss(base, adapted, ROWS, len(ROWS))
    return folder, losses


def again(base):
    """Return the base as it was loaded: an adapter changes its model."""
    return replace(base, model=copy.deepcopy(base.model))


def weights(folder):
    return next(folder.glob("*.safetensors"))


def described(folder):
    return next(file for file in (folder / "adapter_config.json", folder / "tensors.json") if file.exists())


def edit(change):
    """Return a kind of damage: what is changed in the tensors."""

    def damage(folder):
        tensors = load_file(weights(folder))
        first = sorted(tensors)[0]
        save_file({n: t.contiguous() for n, t in (change(tensors, first) or tensors).items()}, weights(folder))

    return damage


def say(file, **fields):
    """Return a kind of damage: fields of a JSON file that say another thing."""

    def damage(folder):
        path = folder / file if file else described(folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def write(place, content):
    return lambda folder: place(folder).write_bytes(content)


def instead(place, make):
    """Return a kind of damage: something else in the place of a file."""

    def damage(folder):
        file = place(folder)
        file.unlink()
        make(file)

    return damage


def first_value(value):
    return edit(lambda tensors, first: tensors[first].view(-1)[0].fill_(value) and None)


def manifest(folder):
    return folder / "bakeoff.json"


KINDS = {
    "no manifest": lambda folder: manifest(folder).unlink(),
    "a manifest of no JSON": write(manifest, b"{"),
    "a manifest that is a list": write(manifest, b"[1]"),
    "a manifest of brackets": write(manifest, b"[" * 100_000),
    "a manifest of another coding": write(manifest, b"\xff\xfe\x00"),
    "a huge manifest": lambda folder: os.truncate(manifest(folder), 2**40),
    "no method": write(manifest, b'{"settings": {}}'),
    "a method that is a number": say("bakeoff.json", method=3),
    "an unknown method": say("bakeoff.json", method="lara"),
    "settings that are a list": say("bakeoff.json", settings=[]),
    "an unknown setting": say("bakeoff.json", settings={"learning_rate": 0.1, "token_indices": [1], "rank": 3}),
    "a setting out of range": say("bakeoff.json", settings={"learning_rate": -1, "token_indices": [1]}),
    "no weights": lambda folder: weights(folder).unlink(),
    "empty weights": write(weights, b""),
    "garbage": write(weights, bytes(range(256)) * 16),
    "a header without an end": write(weights, (2**63).to_bytes(8, "little") + b"{}"),
    "a header longer than the file": write(weights, (2**20).to_bytes(8, "little") + b"{}"),
    "a header of no JSON": write(weights, (8).to_bytes(8, "little") + b"[[[[[[[["),
    "tensors beyond the file": write(
        weights, (57).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}  '
    ),
    "weights cut short": lambda folder: os.truncate(weights(folder), weights(folder).stat().st_size - 5),
    "a foreign tensor": edit(lambda tensors, first: tensors | {"foreign": torch.zeros(2)}),
    "a missing tensor": edit(
        lambda tensors, first: {n: t for n, t in tensors.items() if n != first} or {"x": tensors[first]}
    ),
    "a renamed tensor": edit(lambda tensors, first: {n + "s" * (n == first): t for n, t in tensors.items()}),
    "another shape": edit(lambda tensors, first: tensors | {first: tensors[first][None]}),
    "one row more": edit(lambda tensors, first: tensors | {first: torch.cat([tensors[first], tensors[first][:1]])}),
    "half precision": edit(lambda tensors, first: {n: t.half() for n, t in tensors.items()}),
    "double precision": edit(lambda tensors, first: {n: t.double() for n, t in tensors.items()}),
    "whole numbers": edit(lambda tensors, first: {n: t.int() for n, t in tensors.items()}),
    "no number": first_value(float("nan")),
    "no finite number": first_value(float("inf")),
    "no config": lambda folder: described(folder).unlink(),
    "a config of no JSON": write(described, b"nonsense"),
    "a config that is a list": write(described, b"[]"),
    "an empty config": write(described, b"{}"),
    "weights that are a folder": instead(weights, lambda file: file.mkdir()),
    "weights that are a pipe": instead(weights, os.mkfifo),
    "a config that is a pipe": instead(described, os.mkfifo),
    "weights that are a device": instead(weights, lambda file: file.symlink_to("/dev/zero")),
    "a manifest that is a device": instead(manifest, lambda file: file.symlink_to("/dev/zero")),
    "a link to nothing": instead(weights, lambda file: file.symlink_to("nowhere")),
    "a link to itself": instead(manifest, lambda file: file.symlink_to(file.name)),
    "a pickle beside": lambda folder: (folder / "adapter_model.bin").write_bytes(b"x"),
    "no folder": shutil.rmtree,
    "a file for a folder": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}
OF_PEFT = {
    "a foreign peft_type": say("adapter_config.json", peft_type="LOHA"),
    "an unknown peft_type": say("adapter_config.json", peft_type="???"),
    "a peft_type that is a number": say("adapter_config.json", peft_type=7),
    "another task": say("adapter_config.json", task_type="TOKEN_CLS"),
    "another base": say("adapter_config.json", base_model_name_or_path="gpt2"),
}
OF_TUNERS = {
    "other targets": say("adapter_config.json", target_modules=["c_proj"]),
    "targets of a pattern": say("adapter_config.json", target_modules=EVIL),
    "targets of no pattern": say("adapter_config.json", target_modules="("),
    "a pattern to leave out": say("adapter_config.json", exclude_modules=EVIL),
    "modules to save": say("adapter_config.json", modules_to_save=["lm_head"]),
}
OF_LORA = {
    "a pattern of layers": say("adapter_config.json", layers_pattern=EVIL, layers_to_transform=[0]),
    "a pattern of ranks": say("adapter_config.json", rank_pattern={EVIL: 3}),
    "a pattern of scales": say("adapter_config.json", alpha_pattern={EVIL: 3}),
    "another rank": say("adapter_config.json", r=3),
    "another scale": say("adapter_config.json", lora_alpha=99),
    "another start": say("adapter_config.json", init_lora_weights="pissa"),
}
TUNERS = {"lora", "pissa", "adalora", "ia3", "vera"}


def kinds_of(name):
    kinds = dict(KINDS)
    if name not in ("last_layers", "full"):
        kinds |= OF_PEFT
    if name in TUNERS:
        kinds |= OF_TUNERS
    if name == "vera":
        del kinds["a pattern to leave out"]  # it has no such field: what is written there is read by nobody
    return kinds | (OF_LORA if name in ("lora", "pissa") else {})


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_or_hostile_adapter_is_refused_in_one_line(name, adapters, tmp_path, tiny_model):
    folder, losses = adapters
    base = load_base(str(tiny_model), "fp32")
    for kind, damage in kinds_of(name).items():
        place = tmp_path / kind
        shutil.copytree(folder / name, place)
        damage(place)
        start = time.process_time()
        try:
            load_adapter(again(base), place)
            text = "loaded"
        except SetupError as error:
            text = str(error)
        assert "\n" not in text, kind
        assert str(place) in text, kind
        assert len(text) < 1000, kind
        assert time.process_time() - start < 5, kind
    fresh = load_base(str(tiny_model), "fp32")
    loaded = load_adapter(fresh, folder / name)
    assert evaluate_loss(fresh, loaded, ROWS, len(ROWS)) == losses[name]


def test_an_adapter_half_written_on_a_full_disk_is_never_taken_for_whole(tiny_config, monkeypatch):
    tiny_config |= {"entries": {"last_layers": {}}, "baselines": ["base"]}

    def full(method, adapted, folder):
        (folder / "tensors.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(BaseWeights, "save", full)
        first = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    with pytest.raises(SetupError, match=r"has no finished run: it failed \(.*No space left"):
        first.entry("last_layers").load()
    again = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert again.document.status == "done"
    rows = again.entry("last_layers").predictions()
    written = again.entry("last_layers").load().generate([row["document"] for row in rows])
    assert written == [row["output"] for row in rows]

"""Model folders as others leave them: each is right, or refused by plan and by load in one line, in no time."""

import gc
import hashlib
import json
import os
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from bakeoff import api
from bakeoff.compute.model import loading
from bakeoff.compute.model.base import load_base, shape_only
from bakeoff.compute.model.loading import check_counts
from bakeoff.config.sections import LATEST, Pin
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.hub import base_files, base_hashes, base_identity, base_stamps
from bakeoff.methods import build_method
from bakeoff.store.content_hash import file_hashes, remember
from tests.conftest import many, write_rows

LLAMA = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 32, "max_position_embeddings": 64}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tiny_model):
    """A tiny Llama with the tiny model's tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("llama")
    size = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=size, bos_token_id=0, eos_token_id=0, **LLAMA)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for file in tiny_model.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def changed(folder, place, file="config.json", **values):
    """A copy of a model's folder with other values in one of its files; None takes a key out."""
    shutil.copytree(folder, place)
    words = json.loads((place / file).read_text())
    for key, value in values.items():
        *parents, last = key.split("__")
        inner = words
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
        if value is None:
            del inner[last]
    (place / file).write_text(json.dumps(words))
    return place


def said(config):
    """What plan and load say of a config's model, each in one line or None; anything else they raise comes through."""
    lines = []
    for attempt in (lambda: api.plan(config), lambda: load_base(config["model"], "fp32")):
        try:
            attempt()
            lines.append(None)
        except BakeoffError as error:
            lines.append(str(error))
    assert all(line is None or ("\n" not in line and len(line) < 1000) for line in lines)
    return lines


FOLDERS = [
    ("config.json", {"rope_parameters": None, "rope_scaling": {"rope_type": "spiral", "factor": 8.0}}, "spiral"),
    ("config.json", {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "factor"),
    ("config.json", {"rope_parameters": None, "rope_scaling": [1, 2]}, "rope_parameters"),
    ("config.json", {"model_type": None}, "model_type"),
    ("config.json", {"num_attention_heads": 3, "head_dim": None}, "attention heads"),
    ("config.json", {"vocab_size": 777}, r"has the shape \(\d+, 16\) in its weights, but \(777, 16\) by config.json"),
    ("config.json", {"intermediate_size": 10**9}, "has the shape"),
    ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000. Allowed: at most 100000"),
    ("config.json", {"num_hidden_layers": 10**5}, r"describes more than \d+ tensors"),
    ("config.json", {"num_labels": 10**9}, "num_labels: 1000000000"),
    ("config.json", {"hidden_size": "sixteen"}, "hidden_size"),
    ("tokenizer.json", {"model__type": "BPE2"}, "cannot be loaded"),
    ("tokenizer.json", {"version": "9.0"}, "cannot be loaded"),
    ("tokenizer_config.json", {"eos_token": None}, "no end-of-text token"),
    ("tokenizer_config.json", {"eos_token": "<end>"}, r"ends texts with id \d+ \('<end>'\), and its embeddings have"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "values", "message"), FOLDERS)
def test_what_is_wrong_with_a_model_folder_is_one_line_of_plan_and_of_load(
    tiny_config, llama, tmp_path, file, values, message
):
    folder = changed(llama, tmp_path / "model", file, **values)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    lines = said({**tiny_config, "model": str(folder), "entries": {"lora": {"r": 4}}})
    assert all(line and re.search(message, line) for line in lines), lines


def test_a_whole_folder_is_planned_and_loaded(tiny_config, llama):
    assert said({**tiny_config, "model": str(llama), "entries": {"lora": {"r": 4}}}) == [None, None]


def test_a_tokenizer_file_that_was_cut_is_told_by_the_plan(tiny_config, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "model")
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content[: len(content) // 2])
    with pytest.raises(SetupError, match=r"cannot be loaded \(.*line \d+ column"):
        api.plan({**tiny_config, "model": str(folder), "entries": {"lora": {"r": 4}}})


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "a link to nothing", "a link to itself"])
def test_what_has_the_name_of_a_models_file_and_is_none_is_one_line_and_never_waited_for(
    tiny_config, llama, tmp_path, name, kind
):
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        to = {"device": "/dev/zero", "a link to nothing": "nowhere", "a link to itself": name}[kind]
        (folder / name).symlink_to(to)
    lines = said({**tiny_config, "model": str(folder), "entries": {"lora": {"r": 4}}})
    assert all(line and str(folder) in line for line in lines)


@pytest.mark.parametrize("shards", [3, [1], {"a": 3}, {"a": None, "b": "x"}, {"a": [1]}, {"a": {"b": 1}}, "[" * 9000])
def test_an_index_of_no_weights_is_one_line(tiny_config, llama, tmp_path, shards):
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    text = shards if isinstance(shards, str) else json.dumps({"weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(text)
    lines = said({**tiny_config, "model": str(folder), "entries": {"lora": {"r": 4}}})
    assert all("model.safetensors.index.json is damaged" in line for line in lines)


def test_a_word_beyond_the_embeddings_is_told_by_the_plan(tiny_config, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert api.plan({**tiny_config, "model": str(folder)})
    test = Path(tiny_config["data"]["test"])
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(folder)
    assert api.plan({**tiny_config, "model": str(folder)})  # nothing has the word
    rows[3]["document"] += " zzz"
    write_rows(test, rows)
    with pytest.raises(SetupError, match=r"data.test has the token 'zzz', id \d+, and its embeddings have \d+ rows"):
        api.plan({**tiny_config, "model": str(folder)})


def test_a_config_beside_one_is_none_of_the_models(tiny_model, tmp_path, monkeypatch):
    """trust_remote_code with an unrelated ./config.json that asks for a stranger's code."""
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "someone/else--code.Config"}}')
    monkeypatch.chdir(tmp_path)
    assert type(shape_only(str(tiny_model), Pin(remote_code=True))).__name__ == "GPT2LMHeadModel"


def test_a_run_does_not_hash_the_base_that_the_plan_hashed(tiny_model, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    name, pin = str(folder), Pin()
    identity, hashes, stamps = base_identity(name, pin), base_hashes(name, pin), base_stamps(name, pin)
    read = []
    plain = hashlib.file_digest
    monkeypatch.setattr("bakeoff.store.content_hash._KNOWN", {})
    monkeypatch.setattr(hashlib, "file_digest", lambda s, kind: read.append(s.name) or plain(s, kind))
    weights = {n: h for n, h in hashes.items() if n.endswith(".safetensors")}
    remember(base_files(name, pin), stamps, weights)
    assert base_identity(name, pin) == identity
    assert read
    assert not any(n.endswith(".safetensors") for n in read)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    remember(base_files(name, pin), stamps, weights)
    assert base_identity(name, pin) != identity  # a change of content is still seen
    assert file_hashes(base_files(name, pin))["model.safetensors"] != hashes["model.safetensors"]


def test_a_prompt_that_starts_as_a_text_without_tokens_is_told_by_the_plan(tiny_config):
    entries = {"prompt_tuning": {"prompt_tuning_init_text": " "}}
    with pytest.raises(SetupError, match="entries.prompt_tuning: prompt_tuning_init_text: ' ' has no token"):
        api.plan({**tiny_config, "entries": entries})
    sampled = {"prompt_tuning_init_text": " ", "prompt_tuning_init": "SAMPLE_VOCAB"}
    assert api.plan({**tiny_config, "entries": {"prompt_tuning": sampled}})
    assert build_method("prompt_tuning", {"method": "prompt_tuning", **sampled}).num_virtual_tokens == 6


def test_a_part_of_a_hub_model_is_planned_as_what_a_run_completes(tiny_model, tmp_path, monkeypatch):
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(tiny_model / file, tmp_path)
    monkeypatch.setattr(loading, "on_hub", lambda name: True)
    monkeypatch.setattr(loading, "model_folder", lambda *given, **others: tmp_path)
    loading.check_files("some/model", LATEST)
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loading.check_files("some/model", LATEST)


def test_sizes_and_positions_are_no_counts(tmp_path):
    large = {"vocab_size": 10**8, "max_position_embeddings": 10**9, "rope_theta": 10**12, "n_positions": 10**7,
             "n_embd": 4096, "eos_token_id": 10**7, "num_hidden_layers": 126, "n_words": 200_000,
             "num_train_samples": 10**6, "n_steps": 300_000}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(large))
    check_counts("m", tmp_path / "config.json")


VALUES = st.sampled_from([None, True, -1, 0, 1, 3, 2**31, 10**9, 10**30, 0.5, float("nan"), "", "x", "10", [], [1, 2],
                          {}, {"a": 1}, [[]], "../x", "\x00"])  # fmt: skip
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")


def places(words, path=()):
    """Every place in a document of keys and values, lists in part."""
    found = [path] if path else []
    inner = words.items() if isinstance(words, dict) else enumerate(words[:3]) if isinstance(words, list) else ()
    for key, value in [*inner][:40]:
        found += places(value, (*path, key))
    return found


@many(20)
@given(st.data())
def test_any_damage_to_a_model_folder_is_one_line_or_does_no_harm(tiny_config, llama, tmp_path, data):
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(llama, folder)
    file = folder / data.draw(st.sampled_from(FILES))
    content = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans()):
        words = json.loads(content)
        *parents, last = data.draw(st.sampled_from(places(words)))
        inner = words
        for parent in parents:
            inner = inner[parent]
        inner[last] = data.draw(VALUES)
        file.write_text(json.dumps(words))
    else:
        end = data.draw(st.integers(0, len(content)))
        spoilt = bytearray(content[:end])
        for _ in range(data.draw(st.integers(0, 4)) if spoilt else 0):
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(spoilt)
    said({**tiny_config, "model": str(folder), "entries": {"lora": {"r": 4}}})


@pytest.mark.parametrize("broken", [False, True])
def test_the_collector_rests_while_a_tokenizer_is_read(llama, tmp_path, monkeypatch, broken):
    folder, seen = shutil.copytree(llama, tmp_path / "llama"), []
    read = loading.AutoTokenizer.from_pretrained

    def watched(*given, **how):
        seen.append(gc.isenabled())
        if broken:
            raise OSError("cannot be read")
        return read(*given, **how)

    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", watched)
    with pytest.raises(SetupError) if broken else nullcontext():
        loading.load_tokenizer(str(folder))
    assert seen == [False]
    assert gc.isenabled()

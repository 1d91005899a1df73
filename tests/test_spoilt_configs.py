"""Spoilt configs: whatever stands in the file, the answer is one line that names file and key, and exit status 2."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.errors import ConfigError
from bakeoff.tuning.entries import read_entries
from tests.conftest import many

GOOD = """\
model: MODEL
data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
entries: {lora: {r: 2}}
protocol: {epochs: 1, max_tokens: 48}
tune: {trials: 2}
"""
# What is appended to a good config, or replaces a key of it, and what the message must hold beside the file's name.
SPOILT = {
    "an unknown key": ("modle: gpt2", "modle: unknown key. Did you mean 'model'?"),
    "an unknown key below": ("protocol: {epochs: 1, lr: 1}", "protocol.lr: unknown key"),
    "an unknown key of data": ("data: {train: train.jsonl, target: x}", "data.target: unknown key"),
    "an unknown key of generation": ("generation: {beams: 4}", "generation.beams: unknown key"),
    "a key that is a number": ("7: x", "7: "),
    "a key that is nothing": ("null: x", "None: "),
    "a key that is a list": ("? [a, b]\n: c", "not valid YAML"),
    "a key with a line break": ('"a\\nb": 1', "'a\\nb': unknown key"),
    "a repeated key": ("name: a\nname: b", "'name' appears twice"),
    "a tab": ("protocol:\n\tepochs: 1", "not valid YAML"),
    "an open bracket": ("baselines: [base", "not valid YAML"),
    "an undefined alias": ("name: *a", "not valid YAML"),
    "a Python object": ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    "two documents": ("---\nname: b", "not valid YAML"),
    "a colon in a text": ("template: a: b", "not valid YAML"),
    "a section that is a text": ("protocol: fast", "protocol: expected keys and values"),
    "a section that is nothing": ("protocol:", "protocol: expected keys and values, got nothing"),
    "a section that is a list": ("generation: [1]", "generation: expected keys and values, got a list"),
    "a text for a number": ("protocol: {epochs: three}", "protocol.epochs: expected a whole number, got 'three'"),
    "a fraction for a whole number": ("protocol: {epochs: 1.5}", "protocol.epochs: expected a whole number, got 1.5"),
    "truth for a number": ("protocol: {batch_size: yes}", "protocol.batch_size: expected a number"),
    "a list for a number": ("protocol: {seed: [1]}", "protocol.seed: "),
    "a number for a text": ("model: 7", "model: expected text, got 7. Try: quotes around it"),
    "a word that YAML takes for false": ("name: no", "name: expected text, got False. Try: quotes around it"),
    "a date for a text": ("name: 2026-01-01", "name: expected text"),
    "nothing for a text": ("model:", "model: expected text"),
    "an empty model": ("model: ''", "model: "),
    "zero epochs": ("protocol: {epochs: 0}", "protocol.epochs: "),
    "negative decay": ("protocol: {weight_decay: -1}", "protocol.weight_decay: "),
    "an infinite decay": ("protocol: {weight_decay: .inf}", "protocol.weight_decay: must be a finite number"),
    "a share above one": ("protocol: {warmup_share: 6}", "protocol.warmup_share: "),
    "an unknown choice": ("protocol: {schedule: cosin}", "protocol.schedule: must be 'linear', 'cosine' or 'constant'"),
    "an unknown precision": ("protocol: {precision: fp8}", "protocol.precision: "),
    "a cache of no size": ("protocol: {trunk_cache: lots}", "protocol.trunk_cache"),
    "few tokens": ("protocol: {max_tokens: 4}", "protocol.max_tokens: "),
    "no trials": ("tune: {trials: 0}", "tune.trials: "),
    "tune of another kind": ("tune: 3", "tune: "),
    "an unknown baseline": ("baselines: [base, lead3]", "baselines: unknown baseline 'lead3'"),
    "a baseline of too many": ("baselines: [base, nearest-100]", "nearest-K, many-shot, instruction, lead-K"),
    "keys that do not fit together": ("instructions: [Do.]", "yaml: 'instructions' is set, but nothing uses it"),
    "a method in capitals": ("entries: [LoRA]", "entries.LoRA: unknown method 'LoRA'. Did you mean 'lora'?"),
    "no entries": ("entries: {}", "entries: expected one or more, got none"),
    "entries that are a text": ("entries: lora", "entries: "),
    "an unknown method": ("entries: [lorra]", "entries.lorra: unknown method 'lorra'. Did you mean 'lora'?"),
    "an entry of two names": ("entries: [lora, lora]", "entries: two entries have the same name"),
    "an entry that is a number": ("entries: {lora: 8}", "entries: lora: expected fields"),
    "an entry with a path for a name": ("entries: {../lora: {method: lora}}", "entries"),
    "an entry named as a baseline": ("entries: {oracle: {method: lora}}", "entries.oracle: this is the name of"),
    "a method that is a list": ("entries: {lora: {method: [lora]}}", "entries.lora: unknown method"),
    "an unknown field": ("entries: {lora: {rank: 8}}", "entries.lora: 'rank' is not a field of lora"),
    "a rank of zero": ("entries: {lora: {r: 0}}", "entries.lora.r: "),
    "a rank that is a text": ("entries: {lora: {r: big}}", "entries.lora.r: expected a whole number, got 'big'"),
    "a rate below zero": ("entries: {lora: {learning_rate: -1e-3}}", "entries.lora.learning_rate: "),
    "a range upside down": ("entries: {lora: {r: {low: 8, high: 2}}}", "entries.lora.r: low 8 is not below high 2"),
    "a range as a list": (
        "entries: {lora: {r: [4, 64]}}",
        "entries.lora.r: is a list. A range has low and high, as in {low: ",
    ),
    "a range with a slip of the pen": (
        "entries: {lora: {r: {low: 4, hihg: 8}}}",
        "entries.lora.r.hihg: unknown key. Did you mean 'high'?",
    ),
    "a range of one end": ("entries: {lora: {r: {low: 8}}}", "entries.lora.r: 'high' is missing"),
    "a soft prompt beyond the context": ("entries: {prompt_tuning: {num_virtual_tokens: 60}}", "virtual_tokens: 60"),
    "a template without its document": ("template: 'Summarize:'", "template: "),
    "a template that does not end": ("template: '{{ document'", "template: "),
    "a name with a slash": ("name: a/b", "name: "),
    "a name of a whole line": (f"name: {'a' * 70}", "name: "),
    "a folder that is not there": ("model: ./nowhere", "model: ./nowhere: no such folder"),
    "a folder that is no model": ("model: SUB", "not a model folder"),
    "a model's revision in a folder": ("revision: main", "revision: main: only hub models have one"),
    "another model's code": ("trust_remote_code: some/one", "trust_remote_code: must be the name of the model"),
    "a data file that is not there": ("data: {train: no.jsonl, validation: a, test: b}", "data.train: "),
    "no data": ("data: {}", "data"),
    "data of an unknown name": ("data: {train: [a], validation: b, test: c}", "data.train: expected text, got a list"),
    "a path that no system takes": (f"data: {{train: {'x' * 5000}, validation: a, test: b}}", "data.train: "),
    "a limit of zero": ("data: {train: train.jsonl, validation: a, test: b, train_limit: 0}", "data.train_limit: "),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A folder with data files, and a good config as a mapping from a key to its line."""
    from tests.conftest import make_rows, write_rows

    path = tmp_path_factory.mktemp("spoilt")
    for seed, split in enumerate(("train", "validation", "test")):
        write_rows(path / f"{split}.jsonl", make_rows(8, seed))
    (path / "empty").mkdir()
    return path, GOOD.replace("MODEL", str(tiny_model))


def planned(folder: Path, text: str):
    """Return what `bakeoff plan` answers to a config with this text."""
    file = folder / "my.yaml"
    file.write_text(text, encoding="utf-8")
    return file, CliRunner().invoke(main, ["plan", str(file)])


def in_one_line(file: Path, answer) -> str:
    """Return the message after checking that it is one line with the file's name, without a traceback."""
    assert isinstance(answer.exception, SystemExit), answer.exc_info
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"bakeoff: {file}")
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stdout == ""
    return answer.stderr


def test_the_config_that_is_spoilt_below_is_good(folder):
    _, answer = planned(*folder)
    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_config_is_one_line_with_file_and_key(folder, name):
    path, good = folder
    spoilt, message = SPOILT[name]
    spoilt = spoilt.replace("SUB", str(path / "empty"))
    key = spoilt.partition(":")[0]
    kept = [line for line in good.splitlines() if line.partition(":")[0] != key]
    answer = in_one_line(*planned(path, "\n".join([*kept, spoilt])))
    assert message in answer


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a text", b"- a\n- b", b"\x00", b"# nothing", b"a: &b [*b]"])
def test_a_file_that_is_no_config_is_one_line(tmp_path, content):
    file = tmp_path / "my.yaml"
    file.write_bytes(content)
    in_one_line(file, CliRunner().invoke(main, ["plan", str(file)]))
    in_one_line(tmp_path, CliRunner().invoke(main, ["run", str(tmp_path)]))


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("~"), st.just("\0"),
    st.sampled_from(["lora", "base", "docstrings", "off", "{{ document }}", "/", "..", "9" * 30, "1e400", "-0"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    """Yield the paths of all values in nested mappings, with those of keys that could be added."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))


@many(60)
@given(data=st.data())
def test_no_value_anywhere_ends_in_a_traceback(folder, data):
    path, good = folder
    config = yaml.safe_load(good)
    config |= {"generation": {"batch_size": 4}, "template": None, "output": None, "name": "a", "revision": None}
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(sorted(places(config))))
        section = config
        for key in way:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[data.draw(st.just(last) | st.text(max_size=4))] = data.draw(VALUES)
    file, answer = planned(path, json.dumps(config) if data.draw(st.booleans()) else yaml.safe_dump(config))
    if answer.exit_code != 0:
        in_one_line(file, answer)


@many(60)
@given(data=st.data())
def test_no_torn_text_ends_in_a_traceback(folder, data):
    path, good = folder
    start, size = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 20))
    junk = data.draw(st.text(alphabet=" \t\n:{}[]&*!|>'\"%@`-?,#a0\0\x85\ufeff", max_size=4))
    file, answer = planned(path, good[:start] + junk + good[start + size :])
    if answer.exit_code != 0:
        in_one_line(file, answer)


def test_a_config_that_is_no_utf8_says_how_to_make_it_so(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_bytes(GOOD.encode("utf-16"))
    assert "not UTF-8 text" in (said := in_one_line(file, CliRunner().invoke(main, ["plan", str(file)])))
    assert "Try: iconv -f" in said


@pytest.mark.parametrize("part", [{"metrics": ["\ud800"]}, {"data": {"train": "\ud800"}}])
def test_half_a_character_is_one_line(part):
    with pytest.raises(ConfigError, match="contains half a character"):
        load_config({"entries": ["lora"], **part})


@pytest.mark.parametrize("pattern", ["[[[[[[", "[[a]"])
def test_a_pattern_of_which_python_warns_is_one_line(pattern):
    with pytest.raises(ConfigError, match="not a regular expression"):
        read_entries(load_config({"data": {"source": "docstrings"}, "entries": {"lora": {"target_modules": pattern}}}))

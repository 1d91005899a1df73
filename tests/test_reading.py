"""What a config or a data file from elsewhere may take: no alias, bracket, date, pipe or device keeps bakeoff busy."""

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bakeoff.cli.main import main
from bakeoff.config.data import DataConfig
from bakeoff.config.loading import load_config
from bakeoff.config.yaml import parse_override
from bakeoff.data.sources import load_examples
from bakeoff.errors import BakeoffError, ConfigError, DataError

TIMES = 12
LIST = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, TIMES)
)
MERGE = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, TIMES)
)
SPOILT = {
    "aliases of aliases": (LIST, r":6: not valid YAML \(more than 100,000 values\)"),
    "merges of merges": (MERGE, r":6: not valid YAML \(more than 100,000 values\)"),
    "a list in itself": ("a: &a [*a]", "a value that contains itself"),
    "a mapping merged into itself": ("a: &a {<<: *a}", "a value that contains itself"),
    "a chain of aliases": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 400)), "nested too deep",
    ),
    "3,000 brackets": ("name: " + "[" * 3000, "nested too deep"),
    "3,000 pairs of brackets": ("name: " + "[" * 3000 + "]" * 3000, "nested too deep"),
    "3,000 dashes": ("- " * 3000, "nested too deep"),
    "a date that is none": ("name: 2026-02-30", r":1: not valid YAML \('2026-02-30' is not a valid date\)"),
    "a time that is none": ("name: 2026-02-03 25:00:00", "is not a valid date"),
    "a tag of a number": ("name: !!int x", r"'x' is not a valid int"),
    "a tag of a truth": ("name: !!bool maybe", "'maybe' is not a valid bool"),
    "a tag of a date": ("name: !!timestamp today", "'today' is not a valid date"),
    "a tag of nobody's": ("name: !mine x", "could not determine a constructor for the tag '!mine'"),
    "a number of 5,000 digits": ("name: " + "9" * 5000, "is not a valid int"),
    "a number of 5,000 bytes": ("name: 0x" + "f" * 10_000, "a number that is too large"),
    "two megabytes": ("name: " + "a" * 2_000_000, "larger than 1 MiB, so it is not a config"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_yaml_without_an_end_is_one_line(tmp_path, name):
    text, message = SPOILT[name]
    file = tmp_path / "c.yaml"
    file.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert time.process_time() - started < 10


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("key", ["name", "data", "entries", "entries.lora.r", "protocol.epochs", "template", "model"])
def test_yaml_without_an_end_on_the_command_line_is_one_line(name, key):
    value = SPOILT[name][0].replace("name: ", "").replace("\n", " ")[:20_000]
    config = {"data": "docstrings", "entries": ["lora"]}
    try:
        load_config(config, dict([parse_override(f"{key}={value}")]))
    except BakeoffError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a text is a good name, or a setting that the plan looks at


def test_a_key_of_many_levels_is_one_line():
    with pytest.raises(ConfigError, match="more than 10 levels, so it is not a key of a config"):
        parse_override("entries." + "a." * 3000 + "b=1")


def test_a_merge_and_an_anchor_mean_what_they_did(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "\ufeffdata: docstrings\r\nentries:\r\n  a: &d {method: lora, r: 2}\r\n  b: {<<: *d, lora_alpha: 4}\r\n"
    )
    assert load_config(tmp_path / "c.yaml").entries["b"] == {"method": "lora", "r": 2, "lora_alpha": 4}


@pytest.fixture
def odd_files(tmp_path):
    """Files that never answer, or never end."""
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket may have no more than 107 characters
    server.bind("socket")
    os.chdir(here)
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    yield [tmp_path / name for name in ("pipe", "socket", "zeros", "folder")]
    server.close()


def test_a_pipe_device_socket_or_folder_is_no_config(odd_files):
    for path in odd_files:
        out = CliRunner().invoke(main, ["plan", str(path)])
        assert out.exit_code == 2
        assert out.stderr.startswith(f"bakeoff: {path}: ")
        assert len(out.stderr.splitlines()) == 1


def test_links_that_lead_in_a_circle_are_one_line(tmp_path, tiny_model):
    loop, model = tmp_path / "loop.jsonl", tmp_path / "model"
    loop.symlink_to(loop.name)
    shutil.copytree(tiny_model, model)
    (model / "notes").symlink_to("notes")
    config = {"data": {"train": str(loop)}, "entries": ["lora"], "model": str(tiny_model)}
    (tmp_path / "c.json").write_text(json.dumps(config))
    for words in (
        ["plan", loop], ["plan", tmp_path / "c.json"], ["plan", tmp_path / "c.json", "-s", f"model={loop}"],
        ["run", tmp_path / "c.json", "-s", f"output={loop}", "--display", "none"], ["init", loop], ["show", loop],
        ["run", tmp_path / "c.json", "-s", f"model={model}", "--display", "none"], ["report", loop, tmp_path],
        ["plan", tmp_path / "c.json", "-s", f"data={loop}"], ["generate", loop], ["watch", loop],
    ):  # fmt: skip
        out = CliRunner().invoke(main, list(map(str, words)))
        assert (out.exit_code, len(out.stderr.splitlines())) == (2, 1), (words, out.output, out.exception)


@pytest.mark.parametrize("suffix", ["", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"])
def test_a_pipe_device_or_socket_is_no_data_file(tmp_path, odd_files, suffix):
    for path in odd_files[:3]:
        file = tmp_path / f"{path.name}-data{suffix}"
        file.symlink_to(path)
        for data in ({"train": str(file)}, {"train": str(file), "validation": str(file), "test": str(file)}):
            with pytest.raises(DataError, match="data.train: .*: cannot be read") as caught:
                load_examples(DataConfig(**data))
            assert "\n" not in str(caught.value)


PIECES = st.sampled_from([
    "a: ", "&a ", "*a", "[", "]", "{", "}", ", ", "<<: ", "\n", "  ", "- ", "!!int ", "!!timestamp ", "!!binary ",
    "x", "2026-02-30", "1e3", "0x", "9" * 400, "? ", "|", ">", "'", '"', "\\x", "~", "---", "...", "%YAML ", "1:60:60",
    "!!set ", "=", "!!omap ", "!!null ", "!!float ", "!<tag:yaml.org,2002:bool> ", "yes", "#", "@", "`",
])  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=25))
def test_any_pieces_of_yaml_are_a_config_or_one_line(tmp_path, pieces):
    file = tmp_path / "c.yaml"
    file.write_text("".join(pieces))
    for load in (lambda: load_config(file), lambda: parse_override("name=" + "".join(pieces))):
        try:
            load()
        except BakeoffError as error:
            assert "\n" not in str(error)  # noqa: PT017 - what passes is fine too


@pytest.mark.parametrize("value", ["~", "", " ", "#1", "---"])
@pytest.mark.parametrize("key", ["output", "data.train", "protocol.patience"])
def test_a_value_that_is_null_to_yaml_though_nobody_wrote_null_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"^-s {key}={value}: .*or null for none$"):
        parse_override(f"{key}={value}")
    for word in ("null", "Null", " NULL "):
        assert parse_override(f"{key}={word}") == (key, None)
    assert parse_override(f"{key}=~/out") == (key, "~/out")
    assert parse_override(f"{key}=''") == (key, "")

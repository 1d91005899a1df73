import pytest
import yaml

from bakeoff.config.loading import dump_config, load_config
from bakeoff.config.names import plain_name
from bakeoff.config.yaml import parse_override
from bakeoff.errors import ConfigError, did_you_mean

MINIMAL = {"data": "docstrings", "entries": ["prompt_tuning", "last_layers", "lora"]}


def written(tmp_path, text):
    path = tmp_path / "bakeoff.yaml"
    path.write_text(text)
    return path


def test_a_short_config_is_whole(tmp_path):
    path = written(
        tmp_path,
        "data: {train: a.jsonl, validation: sub/b.jsonl, test: /c.jsonl, document: article, summary: highlights}\n"
        "entries: [lora, {name: big, method: lora, r: 64}]\nprotocol: {epochs: 2}\n",
    )
    config = load_config(path, {"protocol.batch_size": 4, "entries.lora.r": 2})
    assert config.name == "bakeoff"
    assert config.model == "base"
    assert list(config.entries) == ["lora", "big"]
    assert config.entries["big"] == {"method": "lora", "r": 64}
    assert config.entries["lora"]["r"] == 2
    assert (config.protocol.epochs, config.protocol.batch_size) == (2, 4)
    assert config.data.train == str(tmp_path / "a.jsonl")
    assert config.data.test == "/c.jsonl"
    assert str(config.folder) == "bakeoffs/bakeoff"


def test_the_resolved_config_is_itself_runnable(tmp_path):
    config = load_config(MINIMAL, {"name": "x", "protocol.clip_norm": None, "data.train_limit": 5})
    again = load_config(written(tmp_path, dump_config(config)))
    assert again == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1", "epochs: unknown key"),
        ("protocol: {epoch: 1}", r"bakeoff.yaml: protocol.epoch: unknown key. Did you mean 'epochs'\?"),
        ("protocol: {epochs: 0}", r"protocol.epochs: .*greater than or equal to 1 \(got 0\)"),
        ("protocol: {schedule: up}", "protocol.schedule: .*'linear', 'cosine' or 'constant'"),
        ("data: {test: a}", "'train' is missing"),
        ("data: {source: docstring}", "data.source"),
        ("entries: []", "entries: expected one or more, got none"),
        ('entries: {lora: {}, "a\\nb": {}}', r"entries.'a\\nb': "),
        ("protocol:", "protocol: expected keys and values, got nothing"),
        ("protocol: [1]", "protocol: expected keys and values, got a list"),
        ("protocol: {epochs: x}", "protocol.epochs: expected a whole number, got 'x'"),
        ("protocol: {epochs: true}", r"protocol.epochs: expected a number \(got True\)"),
        ("protocol: {weight_decay: .inf}", r"protocol.weight_decay: must be a finite number \(got inf\)"),
        ("entries: [lora, lora]", "have the same name"),
        ("entries: {../x: {method: lora}}", "entries"),
        ("template: hello", "must contain {{ document }}"),
        ("name: a/b", "name"),
        (
            "baselines: [base, lead-0]",
            r"baselines: unknown baseline 'lead-0'. Did you mean 'lead-1'\? Allowed: base, few-shot-K",
        ),
        ("baselines: [base, nerest-3]", "unknown baseline 'nerest-3'. Did you mean 'nearest-3'"),
        (
            "entries: lora",
            r"entries: expected a list of methods, as in \[lora\], or names .* \(got 'lora'\)$",
        ),
        ("name: Gespräche", r"name: expected up to 64 letters \(A to Z, a to z\), .* got 'Gespräche'$"),
        ("machine: {device: gpu}", r"unknown device 'gpu'. Did you mean 'cuda'\?$"),
        ("protocol: {seeds: 2..4}", r"seeds: expected a whole number, got '2..4'. Try: 3, .* \{min: 3, max: 8\}"),
        ("baselines: [oracle]", "baselines: must include base"),
        ("baselines: [base, base]", "baselines: must include base, and no name twice"),
        ("[1]", "expected keys and values, got a list"),
        ("# later", "expected keys and values, got nothing"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_are_explained_in_one_line(tmp_path, text, message):
    raw = yaml.safe_load(text) if not text.endswith("[") else None
    path = written(tmp_path, text if not isinstance(raw, dict) else yaml.safe_dump(MINIMAL | raw))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert "bakeoff.yaml" in str(caught.value)


def test_a_missing_file_and_missing_entries_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match=r"entries: missing \(what is compared"):
        load_config({"data": "docstrings"})


def test_overrides_are_yaml():
    assert parse_override("a.b=1e-3")[1] == "1e-3"  # YAML 1.1 reads this as text; the schema makes it a number
    assert parse_override("a.b=[1, 2]") == ("a.b", [1, 2])
    assert parse_override("x=null") == ("x", None)
    assert load_config(MINIMAL, {"protocol.weight_decay": "1e-2"}).protocol.weight_decay == 0.01
    assert parse_override("template={{ document }} In short:") == ("template", "{{ document }} In short:")
    for wrong in ("a", "=1"):
        with pytest.raises(ConfigError, match="-s"):
            parse_override(wrong)


@pytest.mark.parametrize(
    ("raw", "overrides", "message"),
    [
        ({"entries": {"lora": 5}}, {}, "entries: lora: expected fields"),
        ({"entries": [5]}, {}, "entries: each item of the list must be a method name"),
        ({"entries": [{"lora": {"r": 4}}]}, {}, "entries: each item of the list must be a method name"),
        ({"entries": ["lora", "lora"]}, {"entries.lora.r": 4}, "entries: two entries have the same name"),
        ({"protocol": [1]}, {"protocol.epochs": 2}, "-s protocol.epochs: 'protocol' is a value"),
        ({"entries": ["lora"], "protocol": {"epochs": 1}}, {"protocol.epochs.x": 2}, "'epochs' is a value"),
    ],
)
def test_values_of_another_kind_are_one_line(raw, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config({"data": "docstrings", **raw}, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_folder_is_relative_to_the_config_file(tmp_path):
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "c.yaml").write_text("model: models/m\ndata: docstrings\nentries: [lora]\n")
    assert load_config(tmp_path / "c.yaml").model == str(tmp_path / "models/m")


def test_yamls_bare_off_is_off():
    assert (
        load_config(
            {"data": "docstrings", "entries": ["lora"], "protocol": {"trunk_cache": False}}
        ).protocol.trunk_cache
        == "off"
    )
    assert (
        load_config(
            {"data": "docstrings", "entries": ["lora"], "protocol": {"trunk_cache": "2GB"}}
        ).protocol.trunk_cache
        == 2 * 10**9
    )


def test_a_name_is_made_of_the_files_where_none_is_given(tmp_path):
    for file, name in (
        ("my config.yaml", "my-config"),
        ("_\u00e9.yaml", "e"),
        ("\u5bfe.yaml", "bakeoff"),
        ("a.b.yaml", "a.b"),
    ):
        (tmp_path / file).write_text(yaml.safe_dump(MINIMAL))
        assert load_config(tmp_path / file).name == name


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"bakeoff.yaml:4: not valid YAML \('r' appears twice\)"):
        load_config(written(tmp_path, "data: docstrings\nentries:\n  lora: {r: 1,\n    r: 2}\n"))


def test_merged_yaml_keys_are_no_repeated_ones(tmp_path):
    text = "data: docstrings\nentries:\n  lora: &a {r: 4}\n  big: {<<: *a, method: lora, r: 8}\n"
    assert load_config(written(tmp_path, text)).entries["big"] == {"method": "lora", "r": 8}


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    data = {"train": "~/a", "validation": "b", "test": "c"}
    config = load_config({"data": data, "entries": ["lora"], "model": "~/m", "output": "~/out"})
    assert [config.data.train, config.model, str(config.folder)] == [str(tmp_path / n) for n in ("a", "m", "out")]


def test_usual_slips_of_yaml_are_said_in_plain_words(tmp_path):
    for text, said in (
        ("data:\n\ttrain: a.csv\n", "a tab, where YAML has spaces"),
        ("a: b: c\n", "a colon, or deeper"),
    ):
        with pytest.raises(ConfigError, match=rf"bakeoff.yaml:\d: not valid YAML \({said}"):
            load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "name"),
    [("Gespräche März", "Gesprache-Marz"), ("data (1)", "data-1"), ("..x", "x"), ("対話", ""), ("a" * 90, "a" * 64)],
)
def test_the_name_of_a_file_gives_a_name_that_can_be_read(text, name):
    assert plain_name(text, 64) == name


def test_a_word_with_two_letters_exchanged_is_what_was_meant():
    assert did_you_mean("lroa", ["lora", "road", "dora"]) == " Did you mean 'lora'?"
    assert did_you_mean("nearest-2", []) == " There is none."

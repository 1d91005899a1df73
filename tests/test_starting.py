"""What a person begins with: init guesses and explains, the schema agrees with the loader, doctor examines."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from bakeoff.cli import doctor
from bakeoff.cli.main import main
from bakeoff.cli.schema import json_schema
from bakeoff.config.config import Config
from bakeoff.config.grid import is_grid, load_grid
from bakeoff.config.loading import load_config
from bakeoff.config.sections import Section
from bakeoff.data.column_guess import guess_columns, splits_of, words_of
from bakeoff.data.formats import Table
from bakeoff.errors import BakeoffError, ConfigError, DataError
from bakeoff.tuning.entries import read_entries
from tests.test_spoilt_configs import SPOILT

ROOT = Path(__file__).parent.parent
LONG = "The parcel came late and the box was torn, so we asked for the money back, row {}."


class Yaml12(yaml.SafeLoader):
    """YAML as editors read it: 1e-3 is a number, and off is a text."""


Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))
Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"-?\d+(\.\d*([eE][-+]?\d+)?|[eE][-+]?\d+)$"), list("-0123456789")
)


@pytest.fixture(scope="module")
def schema():
    found = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def table(**columns):
    return Table(
        list(columns), [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    )


def odd_csv(path):
    """Write a CSV with odd column names; return it."""
    lines = ["Ticket No.;Customer;Full message (raw);Agent's one-liner"]
    lines += [f'{i};c{i % 3};"{LONG.format(i)}";parcel {i} late' for i in range(30)]
    path.write_text("\n".join(lines) + "\n")
    return path


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_init_writes_a_config_that_explains_every_option_and_can_be_planned(tmp_path, schema):
    file, config = odd_csv(tmp_path / "tickets.csv"), tmp_path / "my.yaml"
    out = call("init", file, "-o", config)
    assert out.exit_code == 0, out.output
    assert "document: 'Full message (raw)', by its name" in out.stdout
    text = config.read_text()
    loaded = load_config(config)
    assert (loaded.data.document, loaded.data.summary) == ("Full message (raw)", "Agent's one-liner")
    assert loaded.data.train == str(file)
    data = {"document": "Full message (raw)", "summary": "Agent's one-liner", "id": "Ticket No."}
    data["train"] = str(file)
    plain = load_config({"name": "tickets", "data": data, "entries": ["prompt_tuning", "last_layers", "lora"]})
    assert loaded == plain
    said = " ".join(text.replace("#", " ").split())
    kinds = [Config, *(field.annotation for field in Config.model_fields.values())]
    for section in (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)):
        for name, field in section.model_fields.items():
            assert f"{name}:" in text
            assert " ".join(field.description.split()) in said
    assert text.startswith("# yaml-language-server: $schema=bakeoff.schema.json\n")
    schema.validate(yaml.load(text, Yaml12))
    assert json.loads((tmp_path / "bakeoff.schema.json").read_text()) == schema.schema
    before = config.read_bytes()
    again = call("init", file, "-o", config)
    assert again.exit_code == 2
    assert "never overwritten" in again.stderr
    assert config.read_bytes() == before


def test_init_keeps_names_with_line_breaks_on_their_line(tmp_path):
    file, config = tmp_path / "a\nb: c.csv", tmp_path / "my.yaml"
    names = {"document": "full\nname: x\u2028text", "summary": "short\n\nsummary", "id": "id\nno"}
    header = ",".join(f'"{name}"' for name in names.values())
    file.write_text("\n".join([header, *(f'"{LONG.format(i)}",parcel {i},{i}' for i in range(30))]))
    out = call("init", file, "-o", config)
    assert out.exit_code == 0, out.output
    assert "document: 'full\\nname: x\\u2028text', by its name" in out.stdout
    data = load_config(config).data
    assert {key: getattr(data, key) for key in names} == names
    assert data.train == str(file)


def test_init_without_a_file_is_the_demos_task(tmp_path):
    assert call("init", "-o", tmp_path / "my.yaml").exit_code == 0
    assert load_config(tmp_path / "my.yaml").data.source == "docstrings"


def test_columns_are_guessed_by_name_and_look():
    long, short = [LONG.format(i) for i in range(4)], [f"parcel {i}" for i in range(4)]
    cases = [
        (table(id=[1, 2, 3, 4], dialogue=long, summary=short), ("dialogue", "summary", "id")),
        (table(Headline=short, bodyText=long), ("bodyText", "Headline", None)),
        (table(a=short, b=long), ("b", "a", None)),
        (table(kind=["x y"] * 4, notes=long, brief=short), ("notes", "brief", None)),
        (table(uid=[1, 1, 2, 3], text=long, abstract=[s * 20 for s in long]), ("text", "abstract", None)),
        (table(source=long, target=[[s, s] for s in short], score=[0.5] * 4), ("source", "target", None)),
    ]
    for given, expected in cases:
        found = guess_columns({"train": given}, "a.csv").columns
        assert (found["document"], found["summary"], found.get("id")) == expected
    several = table(dialogue=long, summary1=short, summary2=short, topic1=short)
    found = guess_columns({"train": table(dialogue=long, summary=short), "test": several}, "a.csv")
    assert found.columns["references"] == ["summary1", "summary2"]
    with pytest.raises(
        DataError, match="^a.csv: a bakeoff needs two columns with texts, and this file has 1.*: n, text. Try"
    ):
        guess_columns({"train": table(n=[1, 2, 3, 4], text=long)}, "a.csv")


def test_files_are_told_apart_by_their_names():
    files = [Path(name) for name in ("x/dev-00.csv", "myTrainData.csv", "test_v2.csv")]
    assert splits_of(files) == {"train": files[1], "validation": files[0], "test": files[2]}
    assert splits_of(files[2:]) == {"train": files[2]}
    for wrong in (["a.csv", "train.csv"], ["train.csv", "train2_train.csv"], ["dev.csv", "test.csv"]):
        with pytest.raises(ConfigError, match="init: "):
            splits_of([Path(name) for name in wrong])
    assert words_of("fullText_2") == ["full", "text", "2", "fulltext2"]


def test_the_schema_takes_what_the_loader_takes(schema):
    files = [*ROOT.glob("recipes/*.yaml"), *ROOT.glob("src/bakeoff/assets/*.yaml")]
    assert len(files) > 3
    for file in files:
        for config in [cell.config for cell in load_grid(file).cells] if is_grid(file) else [load_config(file)]:
            read_entries(config)
        schema.validate(yaml.load(file.read_text(), Yaml12))
    for text in (
        "data: docstrings\nentries: [lora, {name: big, method: lora, r: 64}]\ntune: off",
        "data: docstrings\nentries: {a: {method: lora, r: {low: 4, high: 8}}, lora: }\nprotocol: {trunk_cache: 2GB}",
    ):
        read_entries(load_config(yaml.safe_load(text)))
        schema.validate(yaml.load(text, Yaml12))


def test_the_schema_refuses_what_the_loader_refuses(schema):
    for name, (text, _) in SPOILT.items():
        try:
            spoilt = yaml.load(text, Yaml12)
        except yaml.YAMLError:
            continue
        config = {"data": {"train": "a", "validation": "b", "test": "c"}, "entries": ["lora"], **spoilt}
        try:
            read_entries(Config.model_validate(config))
        except (ValueError, BakeoffError):
            if name in ONLY_THE_LOADER:
                continue
            assert not schema.is_valid(config), name
        else:
            assert schema.is_valid(config), name


# What a schema cannot say, or says in another place: two keys together, what stands in a text, what a file holds.
ONLY_THE_LOADER = {
    "an entry of two names", "an entry with a path for a name", "another model's code", "an unknown baseline",
    "a baseline of too many", "keys that do not fit together",
    "a template without its document", "a template that does not end", "no data", "a range upside down",
    "a date for a text", "a cache of no size",
}  # fmt: skip


def test_every_field_is_documented_in_the_schema():
    schema = json.loads(json_schema())
    for section in (schema, *(schema["$defs"][n] for n in ("DataConfig", "ProtocolConfig", "GenerationConfig"))):
        assert all("description" in field for field in section["properties"].values())


def test_the_schema_is_stored_and_never_over_something_else(tmp_path):
    file = tmp_path / "s.json"
    assert call("schema", "-o", file).exit_code == 0
    assert call("schema").stdout == file.read_text() + "\n"
    assert call("schema", "-o", file).exit_code == 2
    assert "cannot be written" in call("schema", "-o", tmp_path / "no/s.json").stderr


def test_doctor_says_what_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "FAMILIES", {})
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1", "click<1", "no-such>=2", "x>=1; extra == 'race'"])
    out = call("doctor", "--json")
    found = {check["name"]: check for check in json.loads(out.stdout)["checks"]}
    assert out.exit_code == 1
    assert found["packages"]["status"] == "problem"
    assert re.match(r"click [\d.]+ \(needs <1\); no-such none \(needs >=2\)\. Try", found["packages"]["text"])
    assert found["hub"]["text"].startswith("HF_HUB_OFFLINE is set")
    monkeypatch.setattr(doctor.os, "access", lambda *arguments: False)
    assert "problem  disk: cannot be written: here" in call("doctor").stdout


def test_doctor_tries_a_bakeoff_of_a_family():
    check = doctor.family("encoder-decoder", "cpu")
    assert check.status == "ok"
    assert re.match(r"a tiny bakeoff took [\d.]+ s: train, validate, save, load, decode, score", check.text)

"""A prompt that has won is put to use: the same outputs by `generate`, in Python, and over HTTP."""

import json

import pytest
from click.testing import CliRunner

import bakeoff
from bakeoff.cli.main import main
from bakeoff.errors import DataError, SetupError
from bakeoff.serving.entries import Entries
from bakeoff.serving.opening import Opened
from bakeoff.serving.server import Server
from bakeoff.serving.settings import Settings
from tests.serving import call

PROMPTED = ["few-shot-2", "many-shot", "nearest-2", "instruction"]


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A finished bakeoff with prompted baselines on the embedded base."""
    config = {
        "name": "prompts", "model": "base", "output": str(tmp_path_factory.mktemp("prompts") / "out"),
        "data": {"source": "docstrings", "train_limit": 24, "validation_limit": 4, "test_limit": 6},
        "entries": {"lora": {"r": 2}}, "tune": {"trials": 1}, "baselines": ["base", *PROMPTED],
        "instructions": ["Say what it does.", "Summarize the code"],
        "protocol": {"epochs": 1, "max_tokens": 96, "seeds": 1, "precision": "fp32"},
        "generation": {"max_new_tokens": 40},
    }  # fmt: skip
    return bakeoff.run(config, display="none")


def outputs_of(results, name):
    """Return the documents of the test split, and what a baseline wrote in its evaluation."""
    files = results.folder.run(results.document.baselines[name].runs[0])
    documents = [example.document for example in results.folder.examples("test")]
    return documents, [row.output for row in files.predictions()]


@pytest.mark.parametrize("name", PROMPTED)
def test_a_prompt_writes_what_it_wrote_in_its_evaluation(prompted, name):
    documents, outputs = outputs_of(prompted, name)
    assert len({*outputs}) > 2
    assert prompted.prompt(name).load().generate(documents) == outputs
    alone = prompted.prompt(name).load().generate([documents[3], " ", documents[1]])
    assert alone == [outputs[3], "", outputs[1]]


def test_a_long_document_is_cut_and_one_without_room_is_told(prompted):
    documents, _ = outputs_of(prompted, "few-shot-2")
    summarizer = prompted.prompt("few-shot-2").load()
    kept, total = summarizer.cut([documents[0] * 40])[0]
    assert 0 < kept < total
    assert summarizer.generate([documents[0] * 40]) != [""]
    summarizer.prompts.context = 60
    with pytest.raises(DataError, match="document 1: few-shot-2 leaves no room for it in 60 tokens"):
        summarizer.generate(documents[:1])


def test_a_server_has_prompts_as_models(prompted):
    with Server([prompted.folder.path], Settings(port=0)) as server:
        assert server.models[2:] == ["prompts/lora", *(f"prompts/{name}" for name in PROMPTED)]
        for name in PROMPTED:
            row = call(server, "GET", f"/v1/models/prompts/{name}")[2]
            assert row["method"] == "prompt"
            assert row["score"] == prompted.document.baselines[name].metrics["test/rougeL"].mean
            for document, output in zip(*outputs_of(prompted, name), strict=True):
                body = {"model": f"prompts/{name}", "prompt": document}
                assert call(server, "POST", "/v1/completions", body)[2]["choices"][0]["text"] == output
            assert call(server, "DELETE", f"/v1/adapters/prompts/{name}")[0] == 404


def test_several_in_memory_switch_without_loading(prompted):
    entries = Entries(Opened([prompted.folder.path], "cpu", False, print))
    for name in PROMPTED:
        documents, outputs = outputs_of(prompted, name)
        assert entries.generate(documents, f"prompts/{name}") == outputs


def test_the_command_takes_a_prompts_name(prompted):
    documents, outputs = outputs_of(prompted, "nearest-2")
    asked = [str(prompted.folder.path), "--entry", "nearest-2", "--json"]
    done = CliRunner().invoke(main, ["generate", *asked], input="\f".join(documents[:2]))
    assert done.exit_code == 0
    assert [row["output"] for row in json.loads(done.stdout)] == outputs[:2]


def test_what_is_no_prompt_is_named(prompted):
    with pytest.raises(SetupError, match="no finished prompted baseline 'nearest-3'. Did you mean 'nearest-2'"):
        prompted.prompt("nearest-3")
    with pytest.raises(SetupError, match="no finished prompted baseline 'base'"):
        prompted.prompt("base")
    with pytest.raises(SetupError, match="is a baseline, which has no adapter"):
        prompted.usable("base")

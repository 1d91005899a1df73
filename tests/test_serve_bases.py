"""What is served is what `generate` writes, also by encoder-decoders, by bases of few bits, and of many columns."""

import random

import pytest

import bakeoff
from bakeoff.compute.model.loading import quiet
from bakeoff.testing.families import first_model, tokenizer
from tests.conftest import write_rows
from tests.serving import complete, served

CHOSEN = random.Random(0)


def texts(count, words=8):
    return [" ".join(f"w{CHOSEN.randint(3, 199)}" for _ in range(words)) for _ in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Splits of documents with a title."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"text": text, "title": text[:8], "short": text[:30]} for text in texts(24)]
    parts = {"train": rows[:16], "validation": rows[16:20], "test": rows[20:]}
    return {split: str(write_rows(folder / f"{split}.jsonl", own)) for split, own in parts.items()}


def made(place, data, family, entries, **settings):
    """Return the results of a bakeoff on a tiny base of a family."""
    with quiet():
        first_model(family).save_pretrained(place / "base")
    tokenizer().save_pretrained(place / "base")
    config = {
        "name": "own", "model": str(place / "base"), "data": {**data, "document": "text", "summary": "short"},
        "entries": entries, "tune": None, "baselines": ["base"], "output": str(place / "own"),
        "protocol": {"epochs": 1, "max_tokens": 40, "seeds": 1}, "generation": {"max_new_tokens": 6},
    }  # fmt: skip
    return bakeoff.run({**config, **settings}, display="none")


KINDS = {
    "encoder-decoder": ("bart", {"lora": {"r": 2, "learning_rate": 0.005}, "ia3": {"learning_rate": 0.005}}, {}),
    "few bits": ("llama", {"lora": {"r": 2, "learning_rate": 0.005}, "ia3": {"learning_rate": 0.005}},
                 {"protocol": {"epochs": 1, "max_tokens": 40, "seeds": 1, "quantize": "nf4"}}),
    "columns": ("gpt2", {"lora": {"r": 2, "learning_rate": 0.005}},
                {"template": "{{ title }} : {{ document }} -"}),
}  # fmt: skip


@pytest.mark.parametrize(("family", "entries", "settings"), KINDS.values(), ids=KINDS)
def test_every_kind_of_base_and_prompt_is_served(data, tmp_path, family, entries, settings):
    results = made(tmp_path, data, family, entries, **settings)
    assert results.document.status == "done"
    asked, several = texts(12), "template" in settings
    rows = [{"text": text, "title": text[:8]} for text in asked] if several else asked
    wanted = {entry: results.entry(entry).load().generate(rows) for entry in entries}
    assert len({output for outputs in wanted.values() for output in outputs}) > 1
    with served(results.folder.path) as server:
        for entry, outputs in wanted.items():
            for text, output in zip(asked, outputs, strict=True):
                columns = {"columns": {"title": text[:8]}} if several else {}
                status, found = complete(server, model=f"own/{entry}", prompt=text, **columns)
                assert (status, found["choices"][0]["text"]) == (200, output)

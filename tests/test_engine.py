"""The serving engine: every row's output is that of the decoder of evaluation, whatever shares its steps."""

import json
import os
from collections import defaultdict
from functools import cache

import pytest
import torch

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import Base, adapt, trainable
from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.request import Request
from bakeoff.errors import DataError, SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.testing import FAMILIES, ROWS, family_base
from tests.test_contract import refusals

PROMPTS = [list(row.prompt) for row in ROWS] + [[7, 8], list(range(80, 113))]
ENDS = frozenset({0})
MOST = 8  # tokens


def save(folder, base, name, seed=0, **settings):
    """Write an adapter that changes what the base computes, as a run writes it."""
    method = build_method(name, {"method": name, **method_class(name).tiny, **settings})
    torch.manual_seed(seed)
    adapted = adapt(base, method)
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.save(adapted, folder)
    manifest = {"method": name, "settings": method.model_dump(), "quantize": base.quantize, "model": "base"}
    (folder / "bakeoff.json").write_text(json.dumps(manifest))
    return folder


@cache
def wanted(family, folder, most=MOST):
    """What evaluation writes for the prompts with an adapter; None: the base."""
    base = family_base(family)
    adapted = base.model if folder is None else loaded(base, folder)
    return generate(base, adapted, PROMPTS, most)


def loaded(base: Base, folder):
    from bakeoff.compute.model.adapter_files import load_adapter

    return load_adapter(base, folder)


def drain(engine, outputs=None):
    """Step until nothing is left; return each row's output."""
    outputs = defaultdict(list) if outputs is None else outputs
    for _ in range(500):
        if not engine.rows:
            return outputs
        for event in engine.step():
            if event.token is not None:
                outputs[event.row].append(event.token)
    raise AssertionError("rows do not end")


def methods_for(family):
    """An eighth of the methods, so that all families together have each; all of them if BAKEOFF_CELLS says so."""
    names = [name for name in method_names() if name != "qlora" and refusals()[name, family] is None]
    first = FAMILIES.index(family)
    return names if os.environ.get("BAKEOFF_CELLS") == "all" else names[first % 8 :: 8]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_several_entries_are_what_evaluation_writes(family, tmp_path):
    folders = {name: save(tmp_path / name, family_base(family), name) for name in methods_for(family)}
    engine = Engine(family_base(family), max_rows=8, chunk_tokens=16)
    for name, folder in folders.items():
        engine.load(name, folder)
    asked = {
        engine.submit(name, Request(prompt, MOST, ENDS)): wanted(family, folders.get(name))[place]
        for place, prompt in enumerate(PROMPTS)
        for name in (None, *folders)
    }
    assert drain(engine) == {row: output for row, output in asked.items() if output}
    if family_base(family).decoder_start is None:
        apart = {name for name, entry in engine.entries.items() if entry.lane is not engine.lanes.shared}
        assert apart <= {"full"}


def test_requests_and_adapters_that_cannot_be_taken_are_refused_and_leave_nothing(tmp_path):
    engine = Engine(family_base("gpt2"))
    folder = save(tmp_path / "a", family_base("gpt2"), "lora")
    with pytest.raises(SetupError, match="no adapter of this name"):
        engine.submit("a", Request([5], 3, ENDS))
    with pytest.raises(DataError, match="one or more tokens"):
        engine.submit(None, Request([], 3, ENDS))
    with pytest.raises(DataError, match="at least 1"):
        engine.submit(None, Request([5], 0, ENDS))
    (folder / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(SetupError, match="not a safetensors file"):
        engine.load("a", folder)
    assert engine.names == []
    engine.load("a", save(tmp_path / "b", family_base("gpt2"), "lora"))
    with pytest.raises(SetupError, match="is loaded"):
        engine.load("a", tmp_path / "b")
    with pytest.raises(SetupError, match="no adapter"):
        engine.unload("b")


def test_an_unloaded_adapter_finishes_its_rows_and_its_name_is_free(tmp_path):
    engine = Engine(family_base("gpt2"))
    folders = [save(tmp_path / str(i), family_base("gpt2"), "lora", seed=i) for i in range(2)]
    engine.load("a", folders[0])
    rows = {engine.submit("a", Request(PROMPTS[0], 8, ENDS)): wanted("gpt2", folders[0])[0]}
    engine.step()
    engine.unload("a")
    engine.load("a", folders[1])
    rows[engine.submit("a", Request(PROMPTS[0], 8, ENDS))] = wanted("gpt2", folders[1])[0]
    found = drain(engine)
    first, second = rows
    assert found[second] == rows[second]
    assert found[first] == rows[first][1:]
    assert rows[first] != rows[second]
    assert not engine.leaving


def test_a_drawn_token_depends_on_seed_and_place_alone():
    def drawn(company, **fields):
        engine = Engine(family_base("gpt2"), max_rows=4)
        for prompt in PROMPTS[:company]:
            engine.submit(None, Request(prompt, 5, ENDS))
        row = engine.submit(None, Request(PROMPTS[0], 8, ENDS, **fields))
        return drain(engine)[row]

    hot = {"temperature": 1.5, "top_p": 0.9}
    assert drawn(0, seed=3, **hot) == drawn(5, seed=3, **hot)
    assert len({tuple(drawn(0, seed=seed, **hot)) for seed in range(6)}) > 3
    assert drawn(0, temperature=1.0, top_p=1e-9, seed=1) == drawn(2)
    assert drawn(0, **hot) != drawn(0, **hot)

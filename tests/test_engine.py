"""The serving engine: every row's output is that of the decoder of evaluation, whatever shares its steps."""

import json
import os
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import pytest
import torch

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import Base, adapt, trainable
from bakeoff.compute.run.checks import fingerprints
from bakeoff.compute.serving import norms
from bakeoff.compute.serving.engine import Engine
from bakeoff.compute.serving.forms import Thin
from bakeoff.compute.serving.request import Request
from bakeoff.errors import DataError, SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.testing import FAMILIES, ROWS, family_base
from bakeoff.testing.chats import chat_base, chat_rows
from tests.test_contract import refusals
from tests.test_generation import recurrent_model

PROMPTS = [list(row.prompt) for row in ROWS] + [[7, 8], list(range(80, 113))]
ENDS = frozenset({0})
MOST = 8  # tokens
MIXED = {
    "adalora", "bias", "dora", "eva", "gradient_ranks", "ia3", "last_layers", "layer_norm", "lora", "lora_plus",
    "p_tuning", "prefix_tuning", "prompt_tuning", "rslora", "trainable_tokens",
}  # fmt: skip


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
    """Every fifteenth method, so that all families together have each; all of them if BAKEOFF_CELLS says so."""
    every = 1 if os.environ.get("BAKEOFF_CELLS") == "all" else len(FAMILIES)
    names = method_names()[FAMILIES.index(family) % every :: every]
    return [name for name in names if refusals()[name, family] is None and method_class(name).quantize is None]


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
    assert fingerprints(engine.loaded.model) == fingerprints(family_base(family).model)
    if family_base(family).decoder_start is None:
        apart = {name for name, entry in engine.entries.items() if entry.lane is not engine.lanes.shared}
        assert apart.isdisjoint(MIXED)


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


def test_a_short_request_does_not_wait_for_a_long_prompt():
    engine = Engine(family_base("llama"), max_rows=16, chunk_tokens=8)
    running = [engine.submit(None, Request([7, 8, 9 + i], 60, frozenset())) for i in range(14)]
    while any(not engine.rows[row].written for row in running):
        engine.step()
    long = engine.submit(None, Request([5 + i % 90 for i in range(200)], 3, frozenset()))
    short = engine.submit(None, Request([20, 21, 22], 3, frozenset()))
    steps = [{event.row for event in engine.step()} for _ in range(3)]
    assert short in steps[0]
    assert all(set(running) <= rows for rows in steps)  # and nobody else waits
    found = drain(engine)
    base = family_base("llama")
    assert found[long] == generate(base, base.model, [[5 + i % 90 for i in range(200)]], 3)[0]


def test_keys_and_values_are_freed_without_rows_and_places_are_bounded():
    engine = Engine(family_base("gpt2"), max_rows=3)
    for prompt in PROMPTS * 2:
        engine.submit(None, Request(prompt, 4, ENDS))
    engine.step()
    assert (engine.running, engine.waiting) == (3, 7)
    assert engine.memory_bytes > 0
    drain(engine)
    assert engine.memory_bytes == 0


def test_rows_fail_where_memory_runs_out_and_others_do_not(monkeypatch, tmp_path):
    engine = Engine(family_base("gpt2"))
    engine.load("full", save(tmp_path / "full", family_base("gpt2"), "full"))
    assert engine.entries["full"].lane is not engine.lanes.shared
    rows = [engine.submit(name, Request(PROMPTS[0], 5, ENDS)) for name in (None, "full")]
    engine.step()

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.entries["full"].lane, "decode", no_memory)
    assert [(e.row, e.finished) for e in engine.step() if e.finished] == [(rows[1], "failed")]
    assert drain(engine)[rows[0]] == wanted("gpt2", None)[0][2:5]
    assert engine.memory_bytes == 0


def test_numbers_that_are_none_end_their_row_alone(tmp_path):
    folder = save(tmp_path / "wild", family_base("llama"), "lora")
    engine = Engine(family_base("llama"))
    engine.load("wild", folder)
    for form in (form for forms in engine.lanes.mixer.forms.values() for form in forms.values()):
        if isinstance(form, Thin):
            form.up.fill_(float("nan"))
    rows = [engine.submit(name, Request(PROMPTS[0], 6, ENDS)) for name in (None, "wild", None)]
    events = engine.step()
    assert [(event.row, event.finished) for event in events if event.finished] == [(rows[1], "failed")]
    found = drain(engine)
    assert found[rows[0]] == found[rows[2]] == wanted("llama", None)[0][1:6]


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(tmp_path):
    engine = Engine(family_base("gpt2"))  # of 64 positions
    engine.load("soft", save(tmp_path / "soft", family_base("gpt2"), "prompt_tuning"))
    engine.submit(None, Request([5] * 60, 4, ENDS))
    engine.submit("soft", Request([5] * 57, 4, ENDS))
    with pytest.raises(DataError, match=r"61 tokens and 4 to write are more than the 64 positions"):
        engine.submit("soft", Request([5] * 58, 4, ENDS))


def test_a_bf16_base_is_served_in_the_precision_of_evaluation(tiny_model, tmp_path):
    from bakeoff.compute.model.base import for_decoding, load_base

    prompts = [prompt[:20] for prompt in PROMPTS]
    for name in ("dora", "bias", "vera", "prompt_tuning"):
        folder = save(tmp_path / name, load_base(str(tiny_model), "bf16"), name)
        base = load_base(str(tiny_model), "bf16")
        adapted = loaded(base, folder)
        wrote = generate(for_decoding(base, adapted, "fp32"), adapted, prompts, MOST)
        engine = Engine(load_base(str(tiny_model), "bf16"), precision="fp32")
        engine.load(name, folder)
        assert engine.entries[name].lane is engine.lanes.shared
        rows = [engine.submit(name, Request(prompt, MOST, ENDS)) for prompt in prompts]
        found = drain(engine)
        assert [found[row] for row in rows] == wrote
        share = sum(p.data_ptr() in {q.data_ptr() for q in engine.loaded.model.parameters()}
                    for p in engine.entries[name].base.model.parameters())  # fmt: skip
        assert share > 10  # the base is in memory once


@pytest.mark.filterwarnings("ignore:.*fast path")  # transformers, of kernels that are not installed
@pytest.mark.parametrize("cached", [True, False])
def test_rows_that_cannot_join_a_running_batch_are_right_too(cached):
    model = recurrent_model()
    base = Base(model, family_base("llama").tokenizer, torch.device("cpu"), "fp32", cached=cached)
    wrote = generate(base, model, PROMPTS, MOST)
    engine = Engine(base, max_rows=4)
    rows = [engine.submit(None, Request(prompt, MOST, ENDS)) for prompt in PROMPTS]
    found = drain(engine)
    assert [found[row] for row in rows] == wrote


def test_each_id_that_ends_a_chat_ends_a_row():
    base = chat_base("chatml", "llama")
    prompts = [row.prompt for row in chat_rows("chatml")]
    free = replace(base, stops=frozenset())
    end = Counter(token for output in generate(free, free.model, prompts, 12) for token in output[2:]).most_common(1)
    base = replace(base, stops=base.stops | {end[0][0]})
    wrote = generate(base, base.model, prompts, 12)
    assert any(0 < len(output) < 12 for output in wrote)
    engine = Engine(base)
    rows = [engine.submit(None, Request(prompt, 12, base.ends)) for prompt in prompts]
    found = drain(engine)
    assert [found[row] for row in rows] == wrote


@pytest.mark.parametrize("family", ["gpt2", "llama"])  # stored transposed, and not
def test_a_loaded_dora_computes_each_matrixs_norms_once_and_they_are_those_of_peft(family, tmp_path, monkeypatch):
    from peft.tuners.lora.dora import DoraLinearLayer

    folder = save(tmp_path / "a", family_base(family), "dora", r=1)  # which is thin for every matrix
    ours, theirs = returned(monkeypatch, norms, "norms_of"), returned(monkeypatch, DoraLinearLayer, "get_weight_norm")
    engine = Engine(family_base(family))
    engine.load("a", folder)
    layers = [layer for layer in engine.entries["a"].adapted.modules() if isinstance(layer, DoraLinearLayer)]
    assert len(ours) == len(layers) > 0 == len(theirs)
    peft = loaded(family_base(family), folder)
    peft(torch.tensor([PROMPTS[0]]))
    torch.testing.assert_close(ours, theirs)


def returned(monkeypatch, owner, name):
    """Return a list that gets what a function returns."""
    usual, found = getattr(owner, name), []

    def noted(*given, **named):
        found.append(usual(*given, **named))
        return found[-1]

    monkeypatch.setattr(owner, name, noted)
    return found

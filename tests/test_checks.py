"""Each check passes on a sound run and fails on one that is made unsound."""

import json
import logging
import math
import random
import tomllib
import unittest
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bakeoff.analysis.remarks import failures
from bakeoff.compute.model import position_hash
from bakeoff.compute.model.adapter_files import load_adapter
from bakeoff.compute.model.base import Base, load_base
from bakeoff.compute.run import checks
from bakeoff.compute.run.checks import (
    Marks,
    beats_unigram,
    equals_base,
    few_skipped,
    fingerprints,
    finite,
    only_moved,
    same_when_loaded,
    start_tolerance,
    unigram_entropy,
)
from bakeoff.compute.run.execution import execute
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.data.docstrings import iter_docstrings, split_summary
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form
from bakeoff.data.token_file import load_tokens
from bakeoff.data.tokens import Tokens, encode
from bakeoff.methods.lora import Lora
from bakeoff.methods.method import Method
from bakeoff.methods.soft_prompts import PromptTuning
from bakeoff.progress.plain import PlainDisplay
from bakeoff.reporting import refresh_report
from bakeoff.results import Results, load_results
from bakeoff.store.documents import CurveRow
from bakeoff.store.run_folder import Folder


def test_entropy_counted_by_hand():
    rows = [Tokens([9], [1, 1]), Tokens([9], [2, 3])]
    assert unigram_entropy(rows) == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert unigram_entropy([Tokens([9], [7, 7, 7])]) == 0
    assert beats_unigram(1.0, rows) is None
    assert "worse than guessing by token frequency" in beats_unigram(1.04, rows)


def test_a_trained_base_beats_token_frequencies_until_its_targets_are_scrambled():
    base = load_base("base", "fp32")
    places = [Path(m.__file__).parent for m in (json, logging, unittest, tomllib)]
    pairs = [pair for place in places for _, text in iter_docstrings(place) if (pair := split_summary(text))]
    rows = list(encode([Example("", d, s) for d, s in pairs], make_form(base.tokenizer, None, False), 128, 24, "test"))
    assert len(rows) > 20
    assert beats_unigram(mean_loss(evaluate_loss(base, base.model, rows, 16)), rows) is None
    targets = [token for row in rows for token in row.target]
    random.Random(0).shuffle(targets)
    scrambled = [Tokens(r.prompt, [targets.pop() for _ in r.target], r.cut) for r in rows]
    assert unigram_entropy(scrambled) == pytest.approx(unigram_entropy(rows))
    loss = mean_loss(evaluate_loss(base, base.model, scrambled, 16))
    assert "labels or template may be wrong" in beats_unigram(loss, scrambled)


def test_what_moved_is_told_by_name():
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(6)))
    module.register_buffer("scale", torch.tensor(2.0))
    module.half_weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    before = fingerprints(module)
    assert only_moved(before, fingerprints(module), {"0.weight"}, 5) == "should be trained, but never changed: 0.weight"
    assert only_moved(before, fingerprints(module), {"0.weight"}, 1) is None
    assert only_moved(before, fingerprints(module), {"0.weight"}, 5, lambda name: name == "0.weight") is None
    with torch.no_grad():
        module[0].weight[1, 1] += 1e-6
    assert only_moved(before, fingerprints(module), {"0.weight"}, 5) is None
    assert only_moved(before, fingerprints(module), {"1.weight"}, 5) == (
        "should not be trained, but changed: 0.weight; should be trained, but never changed: 1.weight"
    )
    module.scale += 1
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.neg_()
    after = fingerprints(module)
    assert only_moved(before, after, {"0.weight"}, 5).endswith("1.weight, 2.weight, 3.weight and 4 more")
    del after["scale"]
    assert only_moved(before, after, before, 5) == "tensors were added or removed by training: scale"


def test_losses_are_compared_and_must_be_numbers():
    assert equals_base(2.5, 2.5) is None
    assert equals_base(2.5, math.nextafter(2.5, 3)) is not None
    gpu = Base(None, None, torch.device("cuda:0"), "bf16")
    assert equals_base(2.5, 2.51, start_tolerance(gpu)) is None
    assert equals_base(2.5, 2.51, start_tolerance(replace(gpu, device=torch.device("cpu")))) is not None
    assert few_skipped(6, 60) is None
    assert few_skipped(7, 60).startswith("7 of 60 steps were skipped")
    assert same_when_loaded(2.5, 2.5 * (1 + 1e-7)) is None
    assert same_when_loaded(2.5, 2.5001) == "loss 2.5 when trained, 2.5001 when loaded"
    row = CurveRow(step=3, epoch=1.0, seconds=0.0, train_loss=2.0)
    assert finite([row], [(1.0, 2)]) is None
    assert finite([row, row.model_copy(update={"train_loss": math.inf})], []) == "train/loss is inf at step 3"
    assert finite([row], [(math.nan, 2), (1.0, 1)]) == "the loss of 1 test examples is not finite"


def again(folder: Folder, entry: str):
    """Run an entry again, in this process; return its record and the events it gave."""
    events = []
    run = next(r for r in folder.runs() if r.entry == entry)
    folder.run(run.id).forget_results()
    return execute(folder.path, run.id, "train", events.append), events


@pytest.mark.parametrize("entry", ["lora", "prompt_tuning"])
def test_a_sound_run_passes_what_it_is_checked_for(copied, entry):
    record, _ = again(copied, entry)
    expected = {"loss_finite", "only_intended_moved", "reloads_to_same_loss", "step0_beats_unigram"}
    assert set(record.checks) == expected | ({"step0_equals_base"} if entry == "lora" else set())
    assert set(record.check_notes) == {"step0_beats_unigram"}


def test_a_method_that_moves_the_base_is_told_everywhere(copied, monkeypatch, capsys):
    def move(self: Method, adapted: torch.nn.Module, step: int, steps: int) -> None:
        with torch.no_grad():
            adapted.get_input_embeddings().weight[0, 0] += 1e-4

    monkeypatch.setattr(Lora, "after_step", move)
    record, events = again(copied, "lora")
    assert record.status == "done"
    assert record.checks["only_intended_moved"] is False
    assert "wte.weight" in record.check_notes["only_intended_moved"]
    display = PlainDisplay(copied.runs())
    display.handle(events[-1])
    assert "lora: check only_intended_moved failed: should not be trained, but changed: " in capsys.readouterr().err
    page = refresh_report(copied.path).read_text()
    assert "failed 3 of its checks (below)" in page
    assert (
        "Failed for lora: training changed the weights that it should, and no bit of any other. Here: should not"
        in page
    )
    document = load_results(copied.path).document
    assert document.status == "done"
    assert any(line.startswith("lora: check only_intended_moved failed") for line in failures(document))
    assert "check only_intended_moved failed" in str(Results(copied, document))


def test_a_method_that_does_not_start_as_it_says_is_told(copied, monkeypatch):
    monkeypatch.setattr(PromptTuning, "starts_as_base", True)
    record, _ = again(copied, "prompt_tuning")
    assert record.status == "done"
    assert "before the first step" in record.check_notes["step0_equals_base"]


def test_an_adapter_that_is_not_what_was_trained_is_told(copied, monkeypatch):
    def save(self: Method, adapted: torch.nn.Module, path: Path) -> None:
        kept = {n: p.detach().clone() for n, p in adapted.named_parameters() if "lora_B" in n}
        with torch.no_grad():
            for name in kept:
                adapted.get_parameter(name).mul_(0.5)
            Method.save(self, adapted, path)
            for name, weight in kept.items():
                adapted.get_parameter(name).copy_(weight)

    monkeypatch.setattr(Lora, "save", save)
    record, _ = again(copied, "lora")
    assert record.status == "done"
    assert record.check_notes["reloads_to_same_loss"].startswith("loss ")


def test_the_gap_is_measured_on_the_saved_adapter_with_dropout_off(shared):
    _, results = shared
    for row in results.entries.values():
        base = load_base(results.document.model.name, results.document.precision)
        adapted = load_adapter(base, results.folder.run(row.runs[0]).adapter)
        train = load_tokens(results.folder.tokens_file("train"))
        sample = [train[i] for i in range(0, 40, 5)]  # 8 validation examples, 40 for training
        loss = mean_loss(evaluate_loss(base, adapted, sample, 16))
        assert row.metrics["train_sample/loss"].mean == pytest.approx(loss, rel=1e-6)


def test_known_hashes_are_those_of_weights_that_nobody_touched(base, monkeypatch):
    model, computed = base.model, []
    marks = Marks(model)
    hash_of = checks.position_hash
    monkeypatch.setattr(checks, "position_hash", lambda tensor: computed.append(tensor) or hash_of(tensor))
    count = len(list(model.parameters()))
    assert fingerprints(model, marks) == marks.hashes
    assert len(computed) == len(marks.hashes) - count
    block, other = model.transformer.h
    with torch.no_grad():
        block.ln_1.weight.add_(1)
    block.ln_2.weight.data = block.ln_2.weight.data.double()
    block.attn.c_attn.weight.data = block.attn.c_attn.weight.data.clone().zero_()
    other.ln_1.weight = torch.nn.Parameter(torch.zeros(16))
    computed.clear()
    assert fingerprints(model, marks) == fingerprints(model)
    assert len(computed) == 2 * len(marks.hashes) - count + 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64])
@pytest.mark.parametrize("size", [1, 3, 40, 129])
def test_a_hash_sees_every_bit_and_the_order_of_a_tensors_words(monkeypatch, dtype, size):
    monkeypatch.setattr(position_hash, "CPU_WORDS", 8)  # several parts
    hash_of = position_hash.position_hash
    chosen = random.Random(size)
    plain = torch.tensor([chosen.randint(0, 255) for _ in range(size * dtype.itemsize)], dtype=torch.uint8)
    before = hash_of(plain.view(dtype))
    assert before == hash_of(plain.clone().view(dtype).reshape(1, -1, 1))
    assert before == hash_of(torch.cat([torch.zeros(dtype.itemsize, dtype=torch.uint8), plain]).view(dtype)[1:])
    for _ in range(50):
        other, flipped = plain.clone(), chosen.sample(range(8 * len(plain)), chosen.randint(1, min(8, len(plain))))
        for bit in flipped:
            other[bit // 8] ^= 1 << bit % 8
        assert hash_of(other.view(dtype)) != before
    moved = plain.roll(8)
    assert (hash_of(moved.view(dtype)) == before) == torch.equal(moved, plain)
    assert hash_of(torch.cat([plain, torch.zeros_like(plain)]).view(dtype)) != before


def test_a_hash_sees_pairs_of_signs_and_zeros():
    values = torch.arange(1.0, 33.0)
    hashes = {position_hash.position_hash(values)}
    for first in range(32):
        for second in range(first):
            flipped = values.clone()
            flipped[[first, second]] *= -1
            hashes.add(position_hash.position_hash(flipped))
    assert len(hashes) == 1 + 32 * 31 / 2
    assert len({position_hash.position_hash(torch.zeros(size)) for size in range(9)}) == 9

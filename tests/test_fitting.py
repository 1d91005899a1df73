"""Batches on an accelerator: how many positions fit it at once, and what is made while it computes."""

import random
from types import SimpleNamespace

import pytest
import torch

from bakeoff.compute.model import device
from bakeoff.compute.model.base import adapt
from bakeoff.compute.model.team import ALONE
from bakeoff.compute.training import ahead, fitting, loop, loss
from bakeoff.compute.training.ahead import Ahead
from bakeoff.compute.training.batches import evaluation_batches, flat, parted
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.fitting import positions_that_fit
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method

GPU = torch.device("cuda:0")
ROWS = [Tokens(list(range(9, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(11)]


class Memory:
    """What torch counts on an accelerator of 1,000 bytes, of which others use some."""

    now, most, others, total = 0, 0, 0, 1000

    def take(self, size):
        self.now += size
        self.most = max(self.most, self.now)


@pytest.fixture
def memory(monkeypatch):
    """The memory of a pretended accelerator; its random numbers are the processor's."""
    there = Memory()
    answers = {
        "memory_allocated": lambda _: there.now,
        "memory_reserved": lambda _: there.now,
        "max_memory_allocated": lambda _: there.most,
        "reset_peak_memory_stats": lambda _: setattr(there, "most", there.now),
    }
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (there.total - there.others - there.now, there.total))
    for name, answer in answers.items():
        monkeypatch.setattr(torch.accelerator, name, answer)
    monkeypatch.setattr(fitting, "random_state", lambda _: torch.get_rng_state())
    monkeypatch.setattr(fitting, "set_random_state", lambda _, state: torch.set_rng_state(state))
    monkeypatch.setattr(device, "_PEAKS", {})
    return there


def test_what_fits_follows_from_one_rows_memory_and_draws_no_random_numbers(memory):
    memory.take(200)

    def backward():
        torch.rand(5)
        memory.take(120)
        memory.take(-70)  # 50 bytes of gradients stay

    state = torch.get_rng_state()
    for others, moments_there, expected in ((0, False, 78), (0, True, 92), (300, False, 50), (790, False, 10)):
        memory.others = others
        assert positions_that_fit(GPU, 50, backward, 10, moments_there) == expected
        memory.take(-50)
    assert torch.equal(torch.get_rng_state(), state)
    assert device.peak_bytes(GPU) == 320
    memory.others = 0
    assert positions_that_fit(GPU, 50, backward, 10, False, beside=1) == 14  # half of the device


@pytest.fixture
def trainer(tiny_model):
    """Return a function that makes a trainer of LoRA with dropout."""
    from bakeoff.compute.model.base import load_base

    def make(seed=0):
        base = load_base(str(tiny_model), "fp32")
        torch.manual_seed(seed)
        method = build_method("x", {"method": "lora", "r": 2, "lora_dropout": 0.5, "learning_rate": 0.01})
        protocol = ProtocolConfig(epochs=2, batch_size=6)
        return Trainer(base, adapt(base, method), method, protocol, 0, lambda *_: None, rungs=(2,))

    return make


@pytest.fixture
def accelerated(memory, monkeypatch):
    """Let trainings believe that they are on that accelerator, where a position takes a byte."""
    measured = []

    def taken_by(_, work):
        work()
        measured.append(1)
        return len(max(ROWS, key=len))

    monkeypatch.setattr(loop, "counts_peaks", lambda _: True)
    monkeypatch.setattr(fitting, "taken_by", taken_by)
    monkeypatch.setattr(loop, "positions_that_fit", lambda _, __, *more: positions_that_fit(GPU, 0, *more))
    return measured


def test_a_batch_that_fits_is_computed_as_it_is_and_another_in_parts(trainer, memory, accelerated, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "counts_peaks", lambda _: False)
        plain = trainer()
        expected = plain.train(ROWS, ROWS)
    memory.total = 10**6
    whole = trainer()
    assert whole.train(ROWS, ROWS) == expected
    for name, weight in plain.weights.items():
        assert torch.equal(whole.weights[name], weight)
    assert whole.at.positions > 10**5
    memory.total = 60
    seen = []
    losses = loop.target_losses
    monkeypatch.setattr(loop, "target_losses", lambda *inputs: seen.append(inputs[2].ids.numel()) or losses(*inputs))
    parted = trainer()
    result = parted.train(ROWS, ROWS)
    assert max(seen) <= parted.at.positions < 60
    assert result.micro_batch == expected.micro_batch
    assert result.validation_loss == pytest.approx(expected.validation_loss, rel=0.2)  # other dropout
    assert len(accelerated) == 2


def test_a_training_that_resumes_has_the_parts_that_it_had(trainer, memory, accelerated, tmp_path):
    memory.total = 60
    straight = trainer()
    expected = straight.train(ROWS, ROWS)
    first = trainer()
    first.train(ROWS, ROWS, 2)
    save_checkpoint(tmp_path, first, {})
    memory.total = 1000
    again = trainer(seed=1)
    load_newest(tmp_path, again)
    assert again.train(ROWS, ROWS) == expected
    assert again.at.positions == straight.at.positions
    assert len(accelerated) == 2


def test_the_next_batch_is_made_ahead_and_taken_only_as_it_was_asked_for(monkeypatch):
    made = []
    monkeypatch.setattr(ahead, "batch_of", lambda _, rows: made.append(len(rows)) or len(made))
    on_gpu, on_cpu = (Ahead(SimpleNamespace(device=torch.device(kind), team=ALONE), ROWS) for kind in ("cuda", "cpu"))
    on_cpu.prepare([1, 2], 6, None)
    assert made == []
    on_gpu.prepare([1, 2, 3], 2, None)
    assert made == [2, 1]
    assert on_gpu.take([1, 2, 3], 2, None) == [(slice(0, 2), 1, True), (slice(2, 3), 2, True)]
    assert made == [2, 1]
    on_gpu.take([1, 2, 3], 2, None)
    on_gpu.prepare([4], 2, None)
    on_gpu.take([4], 1, None)  # halved meanwhile
    on_gpu.prepare([4], 2, None)
    on_gpu.take([5], 2, None)
    assert len(made) == 8


def test_whole_numbers_that_travel_together_arrive_as_they_were():
    tensors = [torch.arange(6).view(2, 3), torch.arange(0), torch.tensor([7]), torch.arange(8).view(4, 1, 2)]
    for ours, other in zip(parted(flat(tensors), tensors), tensors, strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("tokens", [1, 40, 300, 10**6])
def test_batches_for_losses_are_as_large_as_an_accelerator_reads_at_once(tokens):
    chosen = random.Random(tokens)
    lengths = [chosen.randint(1, 60) for _ in range(50)]
    batches = evaluation_batches(lengths, 3, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    for batch in batches:
        assert len(batch) <= 3 or len(batch) * max(lengths[i] for i in batch) <= tokens
    assert len(batches) <= len(evaluation_batches(lengths, 3))


def test_losses_are_the_same_in_larger_batches(base, monkeypatch):
    plain = evaluate_loss(base, base.model, ROWS, 2)
    larger = evaluate_loss(base, base.model, ROWS, 2, positions=150)
    assert larger == [(pytest.approx(nats), count) for nats, count in plain]
    monkeypatch.setattr(loss, "total_bytes", lambda _: 24 * 2**30)
    assert loss.read_at_once(SimpleNamespace(device=GPU)) == 12288
    monkeypatch.setattr(loss, "total_bytes", lambda _: 80 * 2**30)
    assert loss.read_at_once(SimpleNamespace(device=GPU)) == 2**15
    assert loss.read_at_once(base) is None

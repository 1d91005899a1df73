"""One process lends one base to many runs: each gets it as it was loaded, and none sees what the others did to it."""

import io
import json
import random
from dataclasses import replace

import pytest
import torch

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model import device
from bakeoff.compute.model.base import DTYPES, adapt, for_decoding
from bakeoff.compute.model.device import CPU, set_rounding
from bakeoff.compute.run import lender as module
from bakeoff.compute.run import process
from bakeoff.compute.run.checks import Marks, fingerprints
from bakeoff.compute.run.lender import Lender, switches
from bakeoff.compute.run.resident import Resident, Wanted
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, start
from bakeoff.config.sections import LATEST, ProtocolConfig
from bakeoff.errors import SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.testing.families import ROWS, family_base

PROTOCOL = ProtocolConfig(epochs=1, batch_size=2, gradient_checkpointing=True)
PROMPTS = [row.prompt for row in ROWS]


def wanted(name, precision="fp32", quantize="none"):
    return Wanted(name, LATEST, (), precision, quantize, None)


def base_of(found):
    """Return a fresh base that is the same at every call, in place of one that is loaded from files."""
    base = family_base(found.name, found.quantize)
    base.model.to(DTYPES[found.precision]) if found.quantize == "none" else None
    return Resident(found, replace(base, precision=found.precision), None, 1.0, Marks(base.model))


@pytest.fixture
def loads(monkeypatch):
    """The bases that lenders have loaded."""
    seen = []

    def tried(found, _):
        seen.append(found)
        return base_of(found)

    monkeypatch.setattr(module, "tried", tried)
    monkeypatch.setattr(module, "release", lambda _: None)  # Python's collector looks at all that a test session has
    return seen


def carried_out(method, folder, lend, settle, before_decoding):
    """Train, save, load and decode as a run does, with bases from `lend`; return all that comes out."""
    folder.mkdir()
    base = lend()
    torch.manual_seed(5)
    adapted = adapt(base, method, method.checkpointable)
    settle(adapted)
    start(base, adapted, method, ROWS, 2)
    found = []
    trainer = Trainer(
        base, adapted, method, PROTOCOL, 0, lambda kind, values: found.append(values.get("validation/loss"))
    )
    trainer.train(ROWS, ROWS)
    method.save(adapted, folder)
    files = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    del trainer, adapted, base
    base = lend()
    adapted = method.load(base.model, folder).eval()
    settle(adapted)
    losses = evaluate_loss(base, adapted, ROWS, 3)
    base = before_decoding(base, "fp32")
    return found, files, losses, generate(for_decoding(base, adapted, "fp32"), adapted, PROMPTS, 6)


def outcome(*arguments):
    try:
        return carried_out(*arguments)
    except SetupError as error:
        return str(error)


def both(name, lender, found, folder):
    """Return what a method does on a base that is lent, and on one that is its own."""
    method = build_method(name, {"method": name, "learning_rate": 0.01, **method_class(name).tiny})
    ours = outcome(
        method, folder / f"{name}-lent", lambda: lender.lend(found)[0].base, lender.settle, lender.before_decoding
    )
    alone = outcome(method, folder / f"{name}-alone", lambda: base_of(found).base, lambda _: None, lambda base, _: base)
    return ours, alone


@pytest.fixture(scope="module")
def shared_lender():
    """A lender that has lent its base to tests before."""
    return Lender(CPU)


PLAIN = [name for name in method_names() if method_class(name).quantize is None]


@pytest.mark.parametrize("name", PLAIN)
def test_a_method_on_a_base_that_others_had_does_what_it_does_alone(loads, shared_lender, tmp_path, name):
    ours, alone = both(name, shared_lender, wanted("gpt2", "bf16"), tmp_path)
    assert ours == alone
    assert len(loads) <= 1


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "t5", "bart"])
def test_methods_in_any_order_on_one_base_do_what_each_does_alone(loads, tmp_path, family):
    lender, found = Lender(CPU), wanted(family)
    for name in random.Random(family).sample(PLAIN, 2):
        ours, alone = both(name, lender, found, tmp_path)
        assert ours == alone, name
    assert loads == [found]


def test_a_base_that_a_run_has_changed_where_it_lies_is_loaded_anew(loads):
    lender, found = Lender(CPU), wanted("llama")
    first, loaded = lender.lend(found)
    assert loaded
    marks = fingerprints(first.base.model)
    again, loaded = lender.lend(found)
    assert (again, loaded) == (first, False)
    with torch.no_grad():
        first.base.model.model.norm.weight[3] += 1
    other, loaded = lender.lend(found)
    assert loaded
    assert other is not first
    assert fingerprints(other.base.model) == marks
    assert lender.lend(wanted("llama", "bf16"))[1]
    assert lender.lend(found)[1]
    assert len(loads) == 4


def test_what_a_run_hangs_on_a_base_is_gone_for_the_next(loads):
    lender, found = Lender(CPU), wanted("gpt2")
    model = lender.lend(found)[0].base.model
    before = {name: (type(module), module.training) for name, module in model.named_modules()}
    block, context, mark = model.transformer.h[0], model.config.n_positions, fingerprints(model)
    block.register_forward_hook(lambda *_: None)
    block.forward = lambda *_: None
    block.attn.extra = torch.nn.Linear(2, 2)
    block.mlp.register_buffer("more", torch.ones(3))
    block.ln_1.__class__ = torch.nn.Identity
    model.config.n_positions = 7
    model.float().train().requires_grad_(True)
    model.transformer.wte.weight.register_hook(lambda grad: grad * 0)
    model.transformer.wte.weight.grad = torch.ones_like(model.transformer.wte.weight)
    model.transformer.h = model.transformer.h[:1]
    assert lender.lend(found)[0].base.model is model
    assert {name: (type(module), module.training) for name, module in model.named_modules()} == before
    assert (model.config.n_positions, fingerprints(model)) == (context, mark)
    assert not block._forward_hooks
    assert "forward" not in vars(block)
    assert model.transformer.wte.weight.grad is None
    assert not model.transformer.wte.weight._backward_hooks
    assert len(loads) == 1


def test_a_lender_lets_go_of_a_base_of_which_too_much_would_be_held(loads, monkeypatch):
    lender, found = Lender(CPU), wanted("gpt2", "bf16")
    left_out = []
    monkeypatch.setattr(module, "leave_out", lambda _, size: left_out.append(size))
    size = sum(weight.nbytes for weight in lender.lend(found)[0].base.model.parameters())
    full = build_method("full", {"method": "full", "learning_rate": 0.01})
    for share, kept in ((1.0, True), (0.99, False)):
        monkeypatch.setattr(module, "memory", lambda _, share=share: (0, share * size / module.HELD_SHARE))
        base = lender.lend(found)[0].base
        lender.settle(adapt(base, full))
        assert left_out[-1] == (size if kept else 0)
        assert lender.lend(found)[1] is not kept
        monkeypatch.setattr(module, "memory", lambda _, share=share: (0, share * size / module.HELD_IN_DECODING))
        base = lender.lend(found)[0].base
        assert lender.before_decoding(base, "bf16").lent
        assert lender.before_decoding(base, "fp32").lent is kept
        assert lender.lend(found)[1] is not kept
        lender.settle(adapt(lender.lend(found)[0].base, full), decoding=True)
        assert lender.lend(found)[1] is not kept


class Peaks:
    """What torch counts of an accelerator's memory."""

    now = most = 0

    def take(self, size):
        self.now += size
        self.most = max(self.most, self.now)

    def max_memory_allocated(self, _):
        return self.most

    def reset_peak_memory_stats(self, _):
        self.most = self.now


def test_what_is_held_for_other_runs_is_not_in_a_runs_peak(monkeypatch):
    there, gpu = Peaks(), torch.device("cuda:0")
    for name in ("max_memory_allocated", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.accelerator, name, getattr(there, name))
    there.take(100)
    device.reset_peak(gpu)
    there.take(50)
    there.take(-30)  # of these 120, 40 are held from now on
    device.leave_out(gpu, 40)
    assert device.peak_bytes(gpu) == 150
    there.take(60)
    assert device.peak_bytes(gpu) == 150
    there.take(20)
    assert device.peak_bytes(gpu) == 160
    device.reset_peak(gpu)
    assert device.peak_bytes(gpu) == 160
    device.leave_out(gpu, 0)
    assert device.peak_bytes(gpu) == 200
    there.take(-100)
    device.reset_peak(gpu)
    assert device.peak_bytes(gpu) == 100
    device.leave_out(CPU, 10)
    assert device.peak_bytes(CPU) > 10**6


@pytest.fixture
def serve(monkeypatch):
    """Serve as many runs as there are statuses, or things to do; return what was said, and the exit status."""

    def serve(*runs, several=True):
        left, events = list(runs), io.StringIO()

        def carry_out(line, events, given):
            assert given.lender is lender
            done = left.pop(0)
            return done if isinstance(done, int) else done() or 0

        lender = Lender(CPU)
        monkeypatch.setattr(process, "carry_out", carry_out)
        monkeypatch.setattr(process.gc, "freeze", lambda: None)
        status = process.serve_alone(io.StringIO("{}\n" * len(runs)), events, lender, several)
        return [json.loads(line) for line in events.getvalue().splitlines() if line], status, len(left)

    return serve


ALONE, DONE = {"alone": True}, {"exit": 0}


def test_a_server_that_cannot_fork_carries_out_runs_until_one_fails(serve):
    assert serve(0, 0, 0) == ([ALONE, DONE, DONE, DONE], 0, 0)
    assert serve(0, 1, 0) == ([ALONE, DONE], 1, 1)
    assert serve(143, 0) == ([ALONE], 143, 1)
    assert serve(0, 0, several=False) == ([ALONE], 0, 1)
    assert serve() == ([], 0, 0)


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
        (lambda: torch.set_float32_matmul_precision("medium"), lambda: torch.set_float32_matmul_precision("highest")),
        (lambda: torch.backends.cuda.enable_flash_sdp(False), lambda: torch.backends.cuda.enable_flash_sdp(True)),
        (lambda: torch.set_num_threads(3), lambda: torch.set_num_threads(1)),
    ],
)
def test_a_server_ends_after_a_run_that_has_changed_how_torch_computes(serve, change, undo):
    threads = torch.get_num_threads()
    try:
        assert serve(0, change, 0) == ([ALONE, DONE], 0, 1)
    finally:
        undo()
        torch.set_num_threads(threads)


@pytest.mark.parametrize("protocol", [ProtocolConfig(tf32=True), ProtocolConfig(deterministic=True)])
def test_what_the_protocol_asks_for_ends_no_process_of_several_runs(protocol):
    before = switches()
    try:
        set_rounding(protocol)
        assert switches() == before
    finally:
        set_rounding(ProtocolConfig())

"""A pretended accelerator: its tensors hold those of a processor, and torch takes them for another device's.

`python tests/pretended_gpu.py METHOD...` trains and decodes on it with each method, a causal model and an
encoder-decoder, in a process of its own: torch then knows a device that other tests must not see. JSON lines say how
often a step and a decoded token wait for the device. As on a GPU, an operation on tensors of two devices is an error.
"""

import json
import sys
from collections import Counter
from dataclasses import replace
from itertools import product

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import adapt, for_decoding
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import evaluate_loss, start
from bakeoff.config.sections import ProtocolConfig
from bakeoff.methods import build_method, method_class
from bakeoff.testing.families import ROWS, family_base

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.nonzero.default, aten.equal.default}
TOKENS = 6


class Device(_DummyBackendModule):
    """What `torch.pretended` answers."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def mem_get_info(self, device=None):
        return 10**10, 10**10


_setup_privateuseone_for_python_backend("pretended", Device())
GPU = torch.device("pretended:0")
waits = Counter()  # of the processor for the device, by operation
made = torch.tensor


def tensor(values, *more, device=None, **how):
    """Return what torch's own does, which makes a tensor on a device without asking anyone."""
    here = made(values, *more, **how)
    return here if device is None else here.to(device)


class There(torch.Tensor):
    """A tensor on the device; `held` is the processor's."""

    @staticmethod
    def __new__(cls, held):
        there = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=GPU
        )
        there.held = held
        return there

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def tolist(self):
        waits["tolist"] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return carried_out(operation, args, kwargs or {})


class Pretending(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return carried_out(operation, args, kwargs or {})


def carried_out(operation, args, how):
    """Return what an operation gives, computed by the processor."""
    given = [value for value in tree_leaves((args, how)) if isinstance(value, torch.Tensor)]
    there = [value for value in given if isinstance(value, There)]
    place = None if how.get("device") is None else torch.device(how["device"])
    moves = operation in (aten._to_copy.default, aten.copy_.default)
    if there and not moves and any(value.ndim for value in given if not isinstance(value, There)):
        raise RuntimeError(f"{operation}: tensors are on two devices")
    back = place is not None and place.type == "cpu"
    fetched = operation is aten.copy_.default and not isinstance(args[0], There)
    if there and (operation in WAITING or back or fetched):
        waits[str(operation)] += 1
    how = {name: value for name, value in how.items() if name != "pin_memory"}
    how |= {"device": torch.device("cpu")} if place else {}
    held = [tree_map(lambda value: value.held if isinstance(value, There) else value, part) for part in (args, how)]
    out = operation(*held[0], **held[1])
    if back or fetched or not (there or place) or not isinstance(out, torch.Tensor | tuple | list):
        return args[0] if fetched else out
    out = tree_map(lambda value: There(value) if isinstance(value, torch.Tensor) else value, out)
    made_anew = not there or operation is aten._to_copy.default
    return out if made_anew else return_and_correct_aliasing(operation, args, how, out)


def waited(family, name):
    """Return how often one method's step and token wait, for a batch of one row."""
    base = family_base(family)
    base.model.to(GPU)
    base, method = replace(base, device=GPU), build_method("x", {"method": name, **method_class(name).tiny})
    adapted = adapt(base, method)
    assert all(isinstance(weight, There) for weight in (*adapted.parameters(), *adapted.buffers()))
    start(base, adapted, method, ROWS, 2)
    steps, found = [], {}

    def report(kind, _):
        if kind == "progress":
            steps.append(waits.total())

    protocol = ProtocolConfig(epochs=1, batch_size=1, precision="fp32", evaluate_every=None)
    Trainer(base, adapted, method, protocol, 0, report).train(ROWS, ROWS)
    found["step"] = steps[1] - steps[0]
    evaluate_loss(base, adapted, ROWS, 2)
    before = waits.total()
    generate(for_decoding(base, adapted, "fp32"), adapted, [[9, 10, 11], [30, 31]], TOKENS)
    return found | {"token": (waits.total() - before) / TOKENS}


def main():
    torch.tensor = tensor
    torch.accelerator.synchronize = lambda device: None
    for family, name in product(("llama", "t5"), sys.argv[1:]):
        with Pretending():
            print(json.dumps({"family": family, "method": name, **waited(family, name)}), flush=True)


if __name__ == "__main__":
    main()

"""The trunk cache gives the losses and gradients of the whole model, or is not used."""

import threading
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.model.forward import UNCHANGED
from bakeoff.compute.training import trunk_cache
from bakeoff.compute.training.batches import collate
from bakeoff.compute.training.loss import target_losses
from bakeoff.compute.training.trunk_cache import (
    TrunkError,
    cut_of,
    find_trunk,
    open_trunk,
    serve_trunks,
    stores_trunk,
    trunk_output,
)
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.methods.last_layers import find_blocks
from bakeoff.testing.families import FAMILIES, family_base
from bakeoff.testing.families import ROWS as FAMILY_ROWS
from tests.conftest import HEAVY
from tests.test_methods import adapted_by

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i, 21, 0]) for i in range(9)]


def top_only(base):
    return adapt(base, build_method("x", {"method": "last_layers", "blocks": 1}))


def losses_and_gradients(base, adapted, context):
    adapted.zero_grad()
    losses = target_losses(base, adapted, collate([ROWS[i] for i in (4, 1, 7)], 0), context)
    losses.mean().backward()
    return losses.detach(), {n: p.grad.clone() for n, p in trainable(adapted).items()}


def test_losses_and_gradients_equal_the_whole_model(base, tmp_path):
    adapted = top_only(base).eval()  # without dropout
    found = open_trunk(base, adapted, ROWS, tmp_path / "train", None, 4)
    calls = []
    handle = base.model.transformer.h[0].attn.register_forward_hook(lambda *_: calls.append(1))
    stored, stored_gradients = losses_and_gradients(base, adapted, found.serving([4, 1, 7]))
    assert not calls
    plain, plain_gradients = losses_and_gradients(base, adapted, UNCHANGED)
    assert calls
    handle.remove()
    torch.testing.assert_close(stored, plain, rtol=1e-5, atol=1e-5)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(stored_gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "cut"),
    [({"method": "last_layers", "blocks": 1}, 1), ({"method": "last_layers", "blocks": 0}, 2),
     ({"method": "last_layers", "blocks": 2}, 0), ({"method": "lora", "r": 2}, 0),
     ({"method": "lora", "r": 2, "target_modules": r".*h\.1\.attn\.c_attn"}, 1),
     ({"method": "prompt_tuning", "num_virtual_tokens": 2}, 0)],
)  # fmt: skip
def test_the_cut_is_the_lowest_block_that_trains(method, cut, base):
    assert cut_of(adapt(base, build_method("x", method))) == cut


@pytest.mark.parametrize("family", FAMILIES if HEAVY else ("gpt2", "t5"))
def test_no_method_trains_what_acts_below_its_trunk(family):
    tried, base = [], family_base(family)
    blocks = [base.model.get_encoder()] if base.model.config.is_encoder_decoder else find_blocks(base.model)[0]
    full = adapt(base, build_method("full", {"method": "full"}))
    assert trunk_output(base, full, blocks, FAMILY_ROWS)[0].requires_grad
    for name in method_names():
        base, method = family_base(family), build_method(name, {"method": name, **method_class(name).tiny})
        if not stores_trunk(method, ProtocolConfig()):
            continue
        with suppress(SetupError):  # a method that refuses the family
            adapted = adapt(base, method)
            if blocks := find_trunk(adapted)[1]:
                tried.append(name)
                assert not trunk_output(base, adapted, blocks, FAMILY_ROWS)[0].requires_grad, name
    assert "last_layers" in tried


def test_it_is_told_when_outputs_are_stored_and_not_when_they_are_there(base, tmp_path):
    told = []
    for _ in range(2):
        rows = {"train": ROWS, "validation": ROWS[:3]}
        serve_trunks(base, top_only(base), rows, tmp_path, ProtocolConfig(batch_size=2), lambda: told.append(1))
        assert len(told) == 2  # one a split


def test_nothing_is_cached_without_a_cut_or_without_room(base, tmp_path):
    assert open_trunk(base, adapted_by("lora", base)[1], ROWS, tmp_path / "a", None, 4) is None
    assert open_trunk(load_base(base.model.name_or_path, "fp32"), top_only(base), ROWS, tmp_path / "b", 100, 4) is None
    assert not list(tmp_path.glob("*.bin"))


def test_the_file_is_built_once_and_shared(base, tiny_model, tmp_path):
    bases = [base, *(load_base(str(tiny_model), "fp32") for _ in range(3))]
    threads = [
        threading.Thread(target=open_trunk, args=(b, top_only(b), ROWS, tmp_path / "train", None, 4)) for b in bases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (file,) = tmp_path.glob("*.bin")
    written = file.stat().st_mtime_ns
    open_trunk(base, base.model, ROWS, tmp_path / "train", None, 4)
    assert file.stat().st_mtime_ns == written


def test_a_gpu_copies_what_is_stored_from_pinned_memory_by_itself(base, tmp_path, monkeypatch):
    found = open_trunk(base, top_only(base), ROWS, tmp_path / "train", None, 4)
    plain, empty, asked = found.read([4, 1]), torch.empty, []

    def pinned(*shape, pin_memory=False, **how):
        asked.append(pin_memory)
        return empty(*shape, **how)

    def moved(tensor, device, non_blocking=False):
        asked.append((str(device), non_blocking))
        return tensor

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.Tensor, "to", moved)
    assert torch.equal(replace(found, device=torch.device("cuda:0")).read([4, 1]), plain)
    assert asked == [True, ("cuda:0", True)]


def test_a_size_is_for_all_files_and_what_a_killed_build_left_is_gone(base, tmp_path):
    open_trunk(base, top_only(base), ROWS, tmp_path / "train", None, 4)
    (file,) = tmp_path.glob("*.bin")
    size = file.stat().st_size
    (tmp_path / "train-0-bf16.tmp").write_bytes(b"x" * size)
    assert open_trunk(base, base.model, ROWS, tmp_path / "validation", 2 * size - 1, 4) is None
    assert list(tmp_path.glob("*.bin")) == [file]
    assert not list(tmp_path.glob("*.tmp"))
    assert open_trunk(base, base.model, ROWS, tmp_path / "validation", 2 * size, 4)


@pytest.mark.parametrize("error", [OSError("No space left on device"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_build_that_fails_leaves_nothing_and_the_run_goes_without(base, tmp_path, monkeypatch, capsys, error):
    adapted, first = top_only(base), trunk_cache.trunk_output
    calls = []

    def fails_later(*arguments):
        calls.append(1)
        if len(calls) > 2:
            assert list(tmp_path.glob("*.tmp"))
            raise error
        return first(*arguments)

    monkeypatch.setattr(trunk_cache, "trunk_output", fails_later)
    rows = {"train": ROWS, "validation": ROWS[:2]}
    assert serve_trunks(base, adapted, rows, tmp_path, ProtocolConfig(batch_size=2)) == {}
    assert "trunk cache not used: " in capsys.readouterr().err
    assert not [file for file in tmp_path.iterdir() if file.name != ".lock"]
    monkeypatch.setattr(trunk_cache, "trunk_output", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        serve_trunks(base, adapted, rows, tmp_path, ProtocolConfig(batch_size=2))


def test_a_stored_trunk_is_compared_on_a_few_rows_from_all_over_it(base, tmp_path, monkeypatch):
    adapted, rows = top_only(base), []
    open_trunk(base, adapted, ROWS, tmp_path / "train", None, 9)
    monkeypatch.setattr(trunk_cache, "batch_of", lambda base, given: rows.append(given) or collate(given, 0))
    open_trunk(base, adapted, ROWS, tmp_path / "train", None, 9)
    assert [ROWS[i] for i in (0, 2, 4, 6)] in rows
    assert max(map(len, rows)) == 4


def test_a_trunk_of_another_base_is_noticed(base, tiny_model, tmp_path):
    open_trunk(base, top_only(base), ROWS, tmp_path / "train", None, 4)
    other = load_base(str(tiny_model), "fp32")
    with torch.no_grad():
        other.model.transformer.h[0].mlp.c_fc.weight.add_(torch.randn(16, 64))
    with pytest.raises(TrunkError, match="without"):
        open_trunk(other, top_only(other), ROWS, tmp_path / "train", None, 4)


def test_a_method_that_changes_the_base_has_no_trunk(tiny_config, monkeypatch):
    import bakeoff
    from bakeoff.methods.last_layers import LastLayers

    monkeypatch.setattr(LastLayers, "keeps_base", False)
    tiny_config["entries"], tiny_config["baselines"] = {"last_layers": {}}, ["base"]
    results = bakeoff.run(tiny_config, {"protocol.epochs": 1}, display="none")
    assert results.entries["last_layers"].costs.get("trunk_seconds") is None


def test_a_bakeoff_gives_the_same_losses_with_and_without(tiny_config, tmp_path):
    import bakeoff

    tiny_config["entries"] = {"last_layers": {}}
    first = bakeoff.run(tiny_config, {"protocol.precision": "fp32"}, display="none")
    off = {"protocol.precision": "fp32", "protocol.trunk_cache": "off", "output": str(tmp_path / "off")}
    second = bakeoff.run(tiny_config, off, display="none")
    losses = [r.entries["last_layers"].metrics["test/loss"].mean for r in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert first.entries["last_layers"].costs["trunk_seconds"] > 0
    assert second.entries["last_layers"].costs.get("trunk_seconds") is None
    assert not first.folder.trunk.exists()


def test_a_trunk_that_was_cut_short_is_stored_again(base, tmp_path):
    first = open_trunk(base, top_only(base), ROWS, tmp_path / "train", None, 4)
    whole = first.file.read_bytes()
    first.file.write_bytes(whole[:-8])
    assert open_trunk(base, top_only(base), ROWS, tmp_path / "train", None, 4).file.read_bytes() == whole

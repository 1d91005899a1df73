"""Every method on one of three families, in turn: exported, and read back by plain transformers and PEFT, it gives what
it gave. With BAKEOFF_FUZZ it is every method on all three.
"""

from copy import deepcopy
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.export.files import write_adapter, write_lora, write_model
from bakeoff.compute.export.low_rank import factors_of, snapshot
from bakeoff.compute.export.merging import cannot_merge, merged, unpack
from bakeoff.compute.export.read_back import load, loss, outputs
from bakeoff.compute.model.base import Base, adapt, load_model, trainable
from bakeoff.compute.model.device import CPU
from bakeoff.compute.training.loss import evaluate_loss
from bakeoff.config.sections import LATEST
from bakeoff.errors import SetupError
from bakeoff.methods import method_names
from bakeoff.methods.method import quiet_peft
from bakeoff.methods.twins import has_twins
from bakeoff.testing.contract import Cell
from bakeoff.testing.families import ROWS, first_model, tokenizer
from tests.conftest import HEAVY

METHODS = method_names()
FAMILIES = ("gpt2", "llama", "t5")
PAIRS = [(m, f) for i, m in enumerate(METHODS) for j, f in enumerate(FAMILIES) if HEAVY or (i + j) % len(FAMILIES) == 0]
UNPACKED = [pair for pair in PAIRS if pair[0] != "qlora"]  # whose plain kernel on a CPU needs weights 32 wide
TOKENS = 6  # that an output has at most
TOLERANCE = 1e-5  # relative: a merged weight is rounded once more
# They change more than matrices.
BEYOND_LORA = ("full", "l2_sp", "wise_ft", "last_layers", "bias", "glora", "layer_norm", "trainable_tokens")
TURNS_BIASES = ("road",)  # of a base that has some
UNMERGED = ("adaption_prompt", "beft")  # tokens that attention reads, and biases of layers that have none


@cache
def loaded(folder, quantize):
    """A base as an export loads it, unpacked, and its tokenizer."""
    model = unpack(load_model(str(folder), "fp32", LATEST, quantize, CPU))
    return model, AutoTokenizer.from_pretrained(folder)


class Made:
    """A method's adapter on a family, away from its start, saved as a run saves it; stands in for `Source`."""

    def __init__(self, method, family, folder, quantize="none"):
        self.cell = Cell(method, family, {}, quantize)
        self.base_folder, self.adapter = folder / "base", folder / method
        if not self.base_folder.exists():
            first_model(family).save_pretrained(self.base_folder)
            tokenizer().save_pretrained(self.base_folder)
        base = self.cell.base()
        torch.manual_seed(3)
        adapted = self.adapt(base)
        with torch.no_grad():
            for weight in trainable(adapted).values():
                weight.add_(torch.randn_like(weight) * 0.1)
        self.adapter.mkdir()
        self.cell.method.save(adapted, self.adapter)
        fresh = self.cell.base()
        kept = self.cell.method.load(fresh.model, self.adapter).requires_grad_(False).eval()
        self.losses = [total for total, _ in evaluate_loss(fresh, kept, ROWS, 1)]
        self.outputs = generate(fresh, kept, [row.prompt for row in ROWS], TOKENS)
        self.config = SimpleNamespace(model=str(self.base_folder), pin=LATEST, revision=None)
        self.run, self.output_tokens = SimpleNamespace(quantize=self.cell.quantize, method=method), TOKENS

    def adapt(self, base):
        return adapt(base, self.cell.method)

    def base(self):
        model, tokens = loaded(self.base_folder, self.cell.quantize)
        return Base(deepcopy(model), tokens, CPU, "fp32")

    def adapted(self, base):
        return self.cell.method.load(base.model, self.adapter).requires_grad_(False).eval()

    def gives_the_same(self, form, folder):
        with quiet_peft():
            model = load(self, form, folder).requires_grad_(False).eval()
        config = GenerationConfig.from_pretrained(folder)
        assert [loss(model, row)[0] for row in ROWS] == pytest.approx(self.losses, rel=TOLERANCE)
        assert outputs(model, config, [row.prompt for row in ROWS]) == self.outputs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a method's adapter on a family, made once; None where the method refuses it, as docs/matrix.md says."""

    folder = tmp_path_factory.mktemp("made")

    @cache
    def make(method, family):
        if Cell(method, family, {}).refusal:
            return None
        return Made(method, family, folder / family)

    return make


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_a_merged_model_gives_what_the_adapter_gave(made, method, family, tmp_path):
    one = made(method, family)
    if one is None:
        return
    base = one.base()
    adapted = one.adapted(base)
    if one.cell.method.virtual_tokens:
        assert "virtual tokens" in cannot_merge(base, adapted)
        with pytest.raises(SetupError, match="cannot be merged"):
            merged(base, adapted)
        return
    if method in UNMERGED:
        with pytest.raises(SetupError, match="PEFT cannot merge"):
            merged(base, adapted)
        return
    assert write_model(one, base, merged(base, adapted), None, tmp_path) == "fp32"
    one.gives_the_same("merged", tmp_path)


@pytest.mark.parametrize(("method", "family"), UNPACKED)
def test_an_adapter_gives_the_same_in_plain_peft(made, method, family, tmp_path):
    one = made(method, family)
    if one is None or not (one.adapter / "adapter_config.json").exists():
        return  # it is refused (test_contract, test_export)
    if has_twins(one.cell.method.prepared(one.base().model)):
        return  # likewise (test_twins)
    write_adapter(one, one.base(), tmp_path)
    one.gives_the_same("peft", tmp_path)
    assert str(one.base_folder.parent) not in (tmp_path / "adapter_config.json").read_text()


@pytest.mark.parametrize(("method", "family"), UNPACKED)
def test_a_plain_lora_of_full_rank_gives_the_same(made, method, family, tmp_path):
    one = made(method, family)
    if one is None or one.cell.method.virtual_tokens or method in UNMERGED:
        return
    base = one.base()
    before = snapshot(base.model)
    model = merged(base, one.adapted(base))
    biased = any(name.endswith("bias") and value.ndim == 1 for name, value in base.model.named_parameters())
    if method in BEYOND_LORA or (method in TURNS_BIASES and biased):
        with pytest.raises(SetupError, match="which a LoRA cannot change. Try: --to merged"):
            factors_of(before, model, 64, method)
        return
    factors = factors_of(before, model, 64, method)
    assert factors.kept == pytest.approx(1, abs=1e-6)
    write_lora(one, one.base(), factors, tmp_path)
    one.gives_the_same("lora", tmp_path)


def test_an_adapter_over_a_base_in_eight_bits_is_merged_into_a_whole_one(tmp_path):
    one = Made("lora", "llama", tmp_path, "int8")
    base = one.base()
    write_model(one, base, merged(base, one.adapted(base)), None, tmp_path / "whole")
    one.gives_the_same("merged", tmp_path / "whole")
    assert "quantization_config" not in (tmp_path / "whole/config.json").read_text()


def test_weights_that_a_format_does_not_hold_are_refused(made, tmp_path):
    one = made("lora", "llama")
    base = one.base()
    model = merged(base, one.adapted(base))
    with torch.no_grad():
        model.get_input_embeddings().weight[5, 0] = 1e30
    with pytest.raises(SetupError, match="values outside the range of fp16. Try: --dtype fp32, or bf16"):
        write_model(one, base, model, "fp16", tmp_path)

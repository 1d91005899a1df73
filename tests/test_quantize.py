"""Bases in four and eight bits: loading, what is refused, what is hashed, and what few bits cost and save."""

import json
import random
import subprocess
from dataclasses import asdict
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

import bakeoff
from bakeoff.compute.model import quantization
from bakeoff.compute.model.adapter_files import load_adapter, save_adapter
from bakeoff.compute.model.base import Base, adapt, count_parameters, for_decoding, load_base, shape_only, trainable
from bakeoff.compute.model.device import CPU, facts
from bakeoff.compute.model.loading import quiet
from bakeoff.compute.model.quantization import packed_size, scales, shape_in, stored_as
from bakeoff.compute.run.checks import fingerprints, only_moved
from bakeoff.compute.run.profile import measure
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.compute.training.trunk_cache import open_trunk
from bakeoff.config.loading import load_config
from bakeoff.driver.memory import Sizes, least_bytes
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import build_method, method_names
from bakeoff.store.run_folder import Folder
from bakeoff.testing import ROWS, check_method, family_shape
from bakeoff.testing.families import first_model, tokenizer
from bakeoff.testing.matrix import PACKED
from bakeoff.tuning.entries import read_entries
from tests.conftest import HEAVY, write_rows
from tests.test_contract import refusals

RANDOM = {"step0_beats_unigram"}  # the check that a base of random weights fails
LAYERS = {"nf4": "Linear4bit", "int8": "Linear8bitLt"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The tiny Llama in a folder."""
    folder = tmp_path_factory.mktemp("llama")
    with quiet():
        first_model("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_texts(folder):
    """Write splits of words that the tiny tokenizer has; a summary is its document's first three."""
    files, chosen = {}, random.Random(0)
    for split, count in (("train", 24), ("validation", 6), ("test", 8)):
        rows = [[f"w{chosen.randint(3, 199)}" for _ in range(chosen.randint(6, 16))] for _ in range(count)]
        rows = [{"document": " ".join(words), "summary": " ".join(words[:3])} for words in rows]
        files[split] = str(write_rows(folder / f"{split}.jsonl", rows))
    return files


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


def config_of(llama, texts, tmp_path, entries, **protocol):
    return {
        "name": "packed", "model": str(llama), "data": texts, "entries": entries, "tune": None,
        "protocol": {"epochs": 1, "max_tokens": 48, "seeds": 1, **protocol}, "baselines": ["base", "lead-1"],
        "template": "{{ document }}", "output": str(tmp_path / "out"),
    }  # fmt: skip


def loss_of(base: Base, adapted: nn.Module | None = None) -> float:
    return mean_loss(evaluate_loss(base, adapted or base.model, ROWS, len(ROWS)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("quantize", LAYERS)
def test_a_base_is_packed_while_it_is_loaded(quantize, precision, llama):
    base, plain = load_base(str(llama), precision, quantize=quantize), load_base(str(llama), precision)
    layers = [m for m in base.model.modules() if type(m).__name__ == LAYERS[quantize]]
    assert len(layers) == 3 * 7
    assert base.model.lm_head.weight.dtype == plain.model.lm_head.weight.dtype
    assert count_parameters(base.model) == (count_parameters(base.model)[0], count_parameters(plain.model)[1])
    planned, _ = packed_size(shape_only(str(llama), quantize=quantize))
    assert planned == sum(m.in_features * m.out_features for m in layers)
    assert loss_of(base) == pytest.approx(loss_of(plain), rel=0.05)
    assert loss_of(base) != loss_of(plain)


def test_eight_bits_multiply_as_their_numbers(llama):
    """And not as LLM.int8(), which rounds a token's numbers by the largest of them."""
    layer = load_base(str(llama), "fp32", quantize="int8").model.model.layers[0].mlp.up_proj
    weight = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
    rows = torch.randn(2, 5, 16, requires_grad=True)
    out = layer(rows)
    torch.testing.assert_close(out, rows @ weight.T)
    out.sum().backward()
    torch.testing.assert_close(rows.grad, weight.sum(0).expand(2, 5, 16))


@pytest.mark.parametrize("quantize", LAYERS)
def test_gpt2_is_packed_too(quantize, tiny_model):
    base, plain = load_base(str(tiny_model), "fp32", quantize=quantize), load_base(str(tiny_model), "fp32")
    assert sum(type(m).__name__ == LAYERS[quantize] for m in base.model.modules()) == 2 * 4
    assert loss_of(base) == pytest.approx(loss_of(plain), rel=0.05)


@pytest.mark.parametrize("quantize", LAYERS)
def test_hashes_hold_the_scales_and_leave_weights_in_place(quantize, llama):
    base = load_base(str(llama), "fp32", quantize=quantize)
    places = {name: (id(p), p.data_ptr()) for name, p in base.model.named_parameters()}
    before = fingerprints(base.model)
    assert {name: (id(p), p.data_ptr()) for name, p in base.model.named_parameters()} == places
    assert before == fingerprints(load_base(str(llama), "fp32", quantize=quantize).model)
    name, scale = next((n, t) for n, t in scales(base.model) if n.endswith(("absmax", "SCB")))
    assert name in before
    scale.flatten()[0] += 1
    assert "should not be trained, but changed: " + name in only_moved(before, fingerprints(base.model), (), 0)


@pytest.mark.parametrize("quantize", LAYERS)
def test_a_packed_base_decodes_in_fp32(quantize, llama):
    base = load_base(str(llama), "bf16", quantize=quantize)
    decoder = for_decoding(base, base.model, "fp32")
    layer = decoder.model.model.layers[0].mlp.up_proj
    rows = torch.randn(3, 16)
    assert layer(rows).dtype == torch.float32
    torch.testing.assert_close(layer(rows), rows @ layer(torch.eye(16)))


def test_a_trained_bias_of_a_packed_layer_stays_in_fp32(tiny_model):
    base = load_base(str(tiny_model), "bf16", quantize="nf4")
    adapted = adapt(base, build_method("bias", {}))
    loss_of(base, adapted)
    assert {p.dtype for p in trainable(adapted).values()} == {torch.float32}


METHODS = [name for name in method_names() if name != "qlora"]
# Four and eight bits in turn; with BAKEOFF_FUZZ both for every method.
CELLS = [(name, quantize) for i, name in enumerate(METHODS) for quantize in (LAYERS if HEAVY else [[*LAYERS][i % 2]])]


@pytest.mark.parametrize(("name", "quantize"), CELLS)
def test_every_method_keeps_the_contract_over_few_bits(name, quantize):
    assert check_method(name, PACKED, quantize=quantize) == refusals()[name, f"{PACKED} {quantize}"]


def test_what_trains_packed_weights_is_refused_in_the_plan(llama, texts, tmp_path):
    for fields in ({"method": "full"}, {"method": "last_layers"}, {"method": "last_layers", "head": False}):
        config = config_of(llama, texts, tmp_path, {"x": {**fields, "quantize": "nf4"}})
        with pytest.raises(
            SetupError, match=r"^entries.x: trains weights of the base itself, .*quantize: none for"
        ) as e:
            bakeoff.plan(config)
        assert "\n" not in str(e.value)
    head = {"method": "last_layers", "blocks": 0, "quantize": "nf4"}
    assert bakeoff.plan(config_of(llama, texts, tmp_path, {"x": head}))["entries"]["x"]["quantize"] == "nf4"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantize": "nf5"}, r"entries.x.quantize: unknown 'nf5'. Did you mean 'nf4'\?"),
        ({"quantize": None}, r"entries.x.quantize: unknown None. Did you mean 'none'"),
        ({"method": "qlora", "quantize": "int8"}, "int8, but qlora is always over nf4. Try: method: lora"),
    ],
)
def test_what_is_no_storage_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        read_entries(load_config({"data": "docstrings", "entries": {"x": {"method": "lora", **fields}}}))


def test_an_entrys_own_storage_comes_before_the_protocols():
    entries = {"a": {"method": "lora"}, "b": {"method": "lora", "quantize": "none"}, "qlora": {}}
    read = read_entries(load_config({"data": "docstrings", "entries": entries, "protocol": {"quantize": "int8"}}))
    assert {name: entry.quantize for name, entry in read.items()} == {"a": "int8", "b": "none", "qlora": "nf4"}
    with pytest.raises(ConfigError, match="protocol.quantize: must be 'none', 'nf4' or 'int8'"):
        load_config({"data": "docstrings", "entries": entries, "protocol": {"quantize": "nf8"}})


def test_a_missing_library_is_named_in_the_plan(llama, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for change, where in (({"quantize": "nf4"}, "protocol"), ({}, "entries.qlora")):
        config = config_of(llama, texts, tmp_path, {"qlora": {}}, **change)
        with pytest.raises(SetupError, match=rf"^{where}.quantize: nf4: needs bitsandbytes. Try: pip install 'bakeoff"):
            bakeoff.plan(config)


def changed_config(folder, target, **changes):
    """Copy a model folder with other keys in its config."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("own", "quantize", "message"),
    [
        ({"quant_method": "hqq"}, "none", r"is quantised by 'hqq', which bakeoff does not load. Allowed: .*GPTQ, AWQ"),
        ({"quant_method": "gptq", "bits": 4}, "none", r"\(gptq\), which takes optimum and gptqmodel to load. Try: pip"),
        ({"bits": 4}, "none", "is quantised by 'None', which bakeoff does not load"),
        ("nf4", "none", "m: cannot be loaded"),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": 5},
            "none",
            "(quantization_config cannot be used|cannot be loaded)",
        ),
        ({"quant_method": "awq"}, "none", r"\(awq\), which takes gptqmodel to load. Try: pip install gptqmodel"),
        (
            {"load_in_4bit": True},
            "int8",
            r"quantize: int8: .* is quantised already \(bitsandbytes\). Try: quantize: none",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_so_is_refused(own, quantize, message, llama, tmp_path):
    folder = changed_config(llama, tmp_path / "m", quantization_config=own)
    for attempt in (shape_only, partial(load_base, precision="fp32")):
        with pytest.raises(SetupError, match=message) as error:
            attempt(str(folder), quantize=quantize)
        assert "\n" not in str(error.value)


def test_what_trains_a_checkpoint_by_another_library_is_refused_in_the_plan(llama, tmp_path, texts, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: True)
    folder = changed_config(llama, tmp_path / "m", quantization_config={"quant_method": "gptq", "bits": 4})
    shape = shape_only(str(folder))
    assert packed_size(shape)[0] == packed_size(family_shape("llama", "nf4"))[0]
    assert not hasattr(shape.lm_head.weight, "bits")
    for method in ("full", "last_layers"):
        with pytest.raises(SetupError, match=f"^{method}: trains weights of the base itself"):
            build_method(method, {}).adapt(shape_only(str(folder)), None)
    bakeoff.plan(config_of(folder, texts, tmp_path, {"lora": {"r": 4}, "prompt_tuning": {}}))


def test_nothing_to_pack_is_said():
    shape = family_shape("llama")
    shape.model.layers = nn.ModuleList()
    with pytest.raises(SetupError, match="quantize: nf4: LlamaForCausalLM has no weight that bitsandbytes can pack"):
        shape_in(shape, "nf4")


@pytest.mark.parametrize("quantize", LAYERS)
def test_a_checkpoint_in_few_bits_is_a_base(quantize, llama, texts, tmp_path):
    """As one that transformers saved: it is the base that packing gives, and its own baseline runs."""
    with quiet():
        load_base(str(llama), "fp32", quantize=quantize).model.save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    assert stored_as(AutoConfig.from_pretrained(tmp_path / "m")) == "bitsandbytes"
    base = load_base(str(tmp_path / "m"), "fp32")
    assert loss_of(base) == loss_of(load_base(str(llama), "fp32", quantize=quantize))
    results = bakeoff.run(
        config_of(tmp_path / "m", texts, tmp_path, {"lora": {"r": 2}}, precision="bf16"), display="none"
    )
    assert {row.status for row in (results.entries | results.document.baselines).values()} == {"done"}
    assert results.entries["lora"].packed_parameters == packed_size(family_shape("llama", quantize))[0]
    assert results.entries["lora"].check_notes.keys() <= RANDOM
    with pytest.raises(SetupError, match="entries.full: trains weights of the base itself"):
        bakeoff.plan(config_of(tmp_path / "m", texts, tmp_path, {"full": {}}))


def test_a_checkpoint_in_fp8_becomes_a_base_of_the_runs_precision(llama, tmp_path):
    scale = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    folder = changed_config(llama, tmp_path / "m", quantization_config=scale)
    tensors = load_file(folder / "model.safetensors")
    for name in [n for n in tensors if "proj" in n]:
        largest = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / largest).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = largest.reshape(1, 1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    base = load_base(str(folder), "fp32")
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert loss_of(base) == pytest.approx(loss_of(load_base(str(llama), "fp32")), rel=0.05)
    with pytest.raises(SetupError, match=r"is quantised already \(fp8\)"):
        shape_only(str(folder), quantize="nf4")


def test_the_trunk_of_a_packed_base_is_its_own(llama, tmp_path):
    top = build_method("x", {"method": "last_layers", "blocks": 0})
    files = {}
    for quantize in ("none", "nf4"):
        base = load_base(str(llama), "fp32", quantize=quantize)
        files[quantize] = open_trunk(base, adapt(base, top).eval(), ROWS, tmp_path / "train", None, 4).file
    assert files["none"] != files["nf4"]
    assert files["nf4"].name == "train-3-fp32-nf4.bin"


def test_a_saved_adapter_says_what_its_base_is_in(llama, texts, tmp_path):
    base = load_base(str(llama), "fp32", quantize="nf4")
    method, config = build_method("lora", {"r": 2}), load_config(config_of(llama, texts, tmp_path, {"lora": {}}))
    save_adapter(tmp_path / "a", adapt(base, method), method, config, "nf4")
    load_adapter(load_base(str(llama), "fp32", quantize="nf4"), tmp_path / "a", {"quantize": "nf4"})
    with pytest.raises(SetupError, match="quantize is 'nf4' here, but 'int8' in the run folder"):
        load_adapter(load_base(str(llama), "fp32", quantize="int8"), tmp_path / "a", {"quantize": "int8"})


def test_the_least_memory_knows_few_bits(llama, texts, tmp_path):
    lora = {"method": "lora", "r": 4}
    entries = {"none": lora, "int8": {**lora, "quantize": "int8"}, "qlora": {"r": 4}}
    config = config_of(llama, texts, tmp_path, entries, precision="bf16") | {"generation": {"precision": "bf16"}}
    rows = bakeoff.plan(config)["entries"]
    packed = 3 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 32)
    outputs = 3 * (16 + 8 + 8 + 16 + 32 + 32 + 16)
    assert {row["packed_parameters"] for n, row in rows.items() if n != "none"} == {packed}
    assert rows["none"]["least_bytes"] - rows["int8"]["least_bytes"] == 2 * packed - packed - 4 * outputs
    four = packed / 2 + packed / 64 + 4 * packed / 64 / 256
    assert rows["none"]["least_bytes"] - rows["qlora"]["least_bytes"] == 2 * packed - round(four)
    trained = rows["none"]["trainable_parameters"]
    moments = 8 * trained + 4 * 3 * 7 * 2  # and a count of steps for each of LoRA's matrices
    sizes = Sizes(rows["none"]["total_parameters"], trained, optimizer_bytes=moments)
    assert rows["none"]["least_bytes"] == least_bytes(sizes, "bf16", "bf16", facts(CPU))


@pytest.fixture(scope="module")
def twins(llama, texts, tmp_path_factory):
    """A bakeoff of LoRA over one base as it is, in four bits by two names, and in eight."""
    tmp = tmp_path_factory.mktemp("twins")
    lora = {"method": "lora", "r": 4, "learning_rate": 0.01}
    entries = {
        "lora": lora, "lora-nf4": {**lora, "quantize": "nf4"}, "lora-int8": {**lora, "quantize": "int8"},
        "qlora": {"r": 4, "learning_rate": 0.01}, "wide": {**lora, "r": 8, "quantize": "int8"},
    }  # fmt: skip
    config = config_of(llama, texts, tmp, entries)
    return config, bakeoff.run(config, display="none")


def test_each_storage_has_a_base_of_its_own(twins):
    document = twins[1].document
    assert document.status == "done"
    baselines = document.baselines
    assert {n: row.quantize for n, row in baselines.items()} == {
        "base": "none", "lead-1": None, "base-int8": "int8", "base-nf4": "nf4"
    }  # fmt: skip
    losses = {row.quantize: row.metrics["neutral/loss"].mean for n, row in baselines.items() if n != "lead-1"}
    assert len(set(losses.values())) == 3
    for row in document.entries.values():
        assert row.check_notes.keys() <= RANDOM
        metrics = row.metrics
        own = metrics["neutral/loss"].mean - losses[row.quantize]
        assert metrics["neutral/forgetting"].mean == pytest.approx(own)
    pairs = {(pair.first, pair.second) for pair in document.verdict.baseline_pairs}
    assert {("lora-nf4", "base-nf4"), ("lora-nf4", "base")} <= pairs
    assert not {("lora", "base-nf4"), ("lora-int8", "base-nf4")} & pairs


def test_the_same_lora_over_four_bits_by_two_names_is_one(twins):
    entries = twins[1].entries
    assert entries["qlora"].metrics["test/loss"] == entries["lora-nf4"].metrics["test/loss"]


def test_the_verdict_says_what_few_bits_cost_and_save(twins):
    _, results = twins
    for packed, kind in (("lora-nf4", "nf4"), ("qlora", "nf4"), ("lora-int8", "int8")):
        assert f"{packed} is lora over a base in {kind}, which " in results.verdict
    assert "wide is" not in results.verdict
    assert "the peak memory of training" in results.verdict
    assert "| base in |" in str(results)
    page = (results.folder.path / "report.html").read_text()
    assert "in four bits (nf4, 64 weights with a scale) (lora-nf4, qlora)" in page


def test_a_run_of_a_packed_base_can_be_used_and_its_card_says_how(twins):
    _, results = twins
    entry = results.entry("qlora")
    document = results.folder.examples("test")
    first = next(iter(document)).document
    assert entry.load().generate([first]) == [entry.predictions()[0]["output"]]
    card = (entry.adapter / "README.md").read_text()
    assert 'bnb_4bit_quant_type="nf4"' in card
    assert "quantization_config=packed" in card
    assert "BitsAndBytesConfig" not in (results.entry("lora").adapter / "README.md").read_text()


def test_how_the_base_is_stored_is_in_the_ids(llama, texts, tmp_path):
    def runs(**protocol):
        plan = bakeoff.plan(config_of(llama, texts, tmp_path, {"lora": {"r": 4}}, **protocol))
        return {run["entry"]: (run["id"], run["quantize"]) for run in plan["runs"]}

    plain, packed = runs(), runs(quantize="nf4")
    assert plain["lead-1"] == packed["lead-1"]
    assert all(plain[n][0] != packed[n][0] and packed[n][1] == "nf4" for n in ("base", "lora"))


def test_an_entry_may_not_be_called_as_a_base(llama, texts, tmp_path):
    config = config_of(llama, texts, tmp_path, {"base-nf4": {"method": "qlora"}})
    with pytest.raises(ConfigError, match="entries.base-nf4: this is the name of a baseline"):
        bakeoff.plan(config)


def test_the_plan_says_what_share_is_packed(llama, texts, tmp_path):
    from bakeoff.report.plan import plan_lines
    from bakeoff.store.plan_document import PlanDocument

    plan = bakeoff.plan(config_of(llama, texts, tmp_path, {"lora": {"r": 4}, "qlora": {"r": 4}}))
    share = packed_size(family_shape("llama", "nf4"))[0] / plan["model"]["total_parameters"]
    lines = plan_lines(PlanDocument.model_validate(plan))
    assert any(line.startswith(f"nf4: {share:.1%} of the base's weights") and "for qlora;" in line for line in lines)


def test_a_probe_measures_the_packed_base(llama, texts, tmp_path, monkeypatch):
    loaded = []

    def here(words, input, **_):  # noqa: A002
        asked = json.loads(input)
        found = measure(Folder(words[-1]), **asked)
        return subprocess.CompletedProcess(words, 0, json.dumps(asdict(found)))

    def load(*arguments, **named):
        loaded.append(load_base(*arguments, **named))
        return loaded[-1]

    monkeypatch.setattr("bakeoff.driver.probes.subprocess.run", here)
    monkeypatch.setattr("bakeoff.compute.run.profile.load_base", load)
    plan = bakeoff.plan(config_of(llama, texts, tmp_path, {"qlora": {"r": 2}}), probe=True)
    assert plan["forecast"]["entries"]["qlora"]["error"] is None
    assert [base.quantize for base in loaded] == ["nf4"]

"""The entry `peft`: fields of PEFT's own configs, with the checks of every other method."""

import json
from pathlib import Path

import peft
import pytest
import torch
from click.testing import CliRunner
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from bakeoff.cli.main import main
from bakeoff.compute.model.base import adapt, count_parameters
from bakeoff.compute.training.gradient_reach import adapted_shape
from bakeoff.config.stages import TuneConfig
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import Method, build_method, method_class, method_names
from bakeoff.methods.any_tuner import LEFT_OUT, OWN, REFUSED, SCALES, configs, for_config, own_class
from bakeoff.methods.injected import Injected
from bakeoff.methods.orthogonal import Blocks
from bakeoff.testing import check_method, family_base, family_shape
from bakeoff.tuning.entries import choices_of, read_entry
from bakeoff.tuning.search import Range


def entry(**settings):
    return build_method("x", {"method": "peft", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^entries.x.config: field required: name of a config of PEFT.* Try: bakeoff methods peft$"),
        ({"config": "oft"}, r"^entries.x.config: unknown 'oft'. Did you mean '?OFTConfig'?"),
        ({"config": "Nothing"}, r"^entries.x.config: unknown 'Nothing'. Allowed: BOFTConfig, BeftConfig, "),
        ({"config": "OFTConfg"}, r"^entries.x.config: unknown 'OFTConfg'. Did you mean '?OFTConfig'?"),
        ({"config": ["OFTConfig"]}, r"^entries.x.config: unknown \['OFTConfig'\]"),
        ({"config": "OFTConfig", "rank": 4}, "'rank' is not a field of peft"),
        (
            {"config": "OFTConfig", "block_shares": True},
            "'block_shares' is not a field of peft. Did you mean '?block_share'?",
        ),
        (
            {"config": "OFTConfig", "oft_block_size": "wide"},
            "entries.x.oft_block_size: expected a whole number, got 'wide'",
        ),
        ({"config": "DeftConfig", "decomposition_method": "svd"}, r"entries.x.decomposition_method: .*'relu' or 'qr'"),
        ({"config": "OFTConfig", "inference_mode": True}, "x.inference_mode: .* it is set by every run itself. Remove"),
        ({"config": "LoraConfig", "modules_to_save": ["lm_head"]}, "it trains whole parts of .* method: last_layers"),
        ({"config": "LoraConfig", "exclude_modules": ["k"]}, "target_modules can leave out. Try: "),
        ({"config": "LoraConfig", "init_lora_weights": "x"}, "^entries.x.init_lora_weights: expected true or false,"),
        ({"config": "LoraConfig", "init_lora_weights": "corda"}, "corda starts from .* Try: method: eva"),
        ({"config": "LoraConfig", "init_lora_weights": "loftq"}, "another base, of fewer bits. Try: method: qlora"),
        ({"config": "LoraConfig", "target_modules": 3}, r"^entries.x.target_modules: .* or expected text \(got 3\)$"),
        ({"config": "LoraConfig", "target_modules": []}, "^entries.x.target_modules: names no weight. Try: all-linear"),
        ({"config": "LoraConfig", "lora_alpha": 0}, r"^entries.x.lora_alpha: must be greater than 0 \(got 0\)"),
        ({"config": "OFTConfig", "coft": True}, "^entries.x.coft: OFTConfig's coft is left out: it moves weights"),
        ({"config": "LoraConfig", "bias": "all"}, "entries.x.bias: .* Try: an entry with method: bias"),
        ({"config": "MissConfig", "use_qalora": True}, "'use_qalora' is not a field of peft"),
        ({"config": "LoraConfig", "init_lora_weights": "eva"}, "starts from training examples, .*Try: method: eva"),
        ({"config": "XLoraConfig"}, "mixes LoRAs that were trained before"),
        ({"config": "FrodConfig"}, "has a method of its own, .*Try: method: frod"),
    ],
)
def test_bad_settings_are_explained_before_anything_is_loaded(settings, message):
    with pytest.raises(ConfigError, match=message):
        entry(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"config": "HiraConfig", "r": 17},
            r"^peft: r: 17 is more than a weight of shape \(16, 16\) allows. Try: r: 16",
        ),
        ({"config": "HiraConfig", "target_modules": ["q"]}, "no weight is called 'q'. This model has: .*q_proj"),
        (
            {"config": "C3AConfig", "block_size": 7},
            "^peft: target_modules all-linear: The block size should be a factor",
        ),
        ({"config": "OFTConfig", "oft_block_size": 5}, "^peft: target_modules all-linear: Invalid `oft_block_size`"),
        ({"config": "LoraConfig", "rank_pattern": {"k": 2}}, "rank_pattern keys did not match any targeted module"),
        (
            {"config": "LoraConfig", "r": 4, "layers_to_transform": [0, 9], "target_modules": ["q_proj"]},
            "^peft: layers_to_transform: no 9 in this model. Allowed: 0 to 2$",
        ),
        (
            {"config": "LoraConfig", "r": 4, "trainable_token_indices": {"embed_tokens": [3, 99999]}},
            "^peft: trainable_token_indices: no 99999 in this model. Allowed: 0 to ",
        ),
        ({"config": "HRAConfig", "r": 3}, "can NOT be performed when r is odd"),
        (
            {"config": "PsoftConfig", "r": 4, "psoft_svd_lowrank_niter": 2},
            "only used when `psoft_svd='lowrank'`",
        ),
        (
            {"config": "GloraConfig", "r": 4, "config_A_B": "none", "config_C": "none", "config_D_E": "none"},
            "^peft: trains nothing of OPTForCausalLM with these settings$",
        ),
    ],
)
def test_settings_that_do_not_fit_the_base_are_refused_in_a_plan(settings, message):
    with pytest.raises(SetupError, match=message) as error:
        adapted_shape(family_shape("opt"), entry(**settings))
    assert "\n" not in str(error.value)


def test_settings_that_change_the_base_are_refused():
    method = entry(config="LoraConfig", r=4, init_lora_weights="pissa")
    for base, how in ((family_base("llama"), adapt), (family_shape("llama"), adapted_shape)):
        with pytest.raises(SetupError, match="changes weights of the base at the start .*Try: .*the method pissa"):
            how(base, method)


@pytest.mark.parametrize("name", sorted({*configs()} - {*REFUSED}))
def test_words_that_change_the_base_are_refused_on_shapes_alone(name):
    fields, tiny = for_config(name).model_fields, own_class(name).tiny
    tried = [{f: word} for f in {*fields} - {"optimizer"} for word in choices_of(for_config(name), f)]
    for settings in [{}, *tried]:
        method = {k: v for k, v in (tiny | settings).items() if k in fields}
        seen = [refused(how, base, config=name, **method) for how, base in SEEN.items()]
        assert seen[0] == seen[1], settings


SEEN = {adapt: family_base, adapted_shape: family_shape}


def refused(how, base, **settings):
    try:
        how(base("llama"), entry(**settings))
    except (ConfigError, SetupError) as error:
        return "changes weights of the base" in str(error)
    return False


@pytest.mark.parametrize("name", sorted({*configs()} - {*REFUSED}))
def test_numbers_that_would_train_nothing_are_refused(name):
    for field in for_config(name).model_fields:
        assert field in SCALES or not field.endswith(("alpha", "scaling", "_lambda")), field
        if field in SCALES or field.endswith("dropout"):
            with pytest.raises(ConfigError, match=f"^entries.x.{field}: must be (greater|less) than"):
                entry(config=name, **{field: 0 if field in SCALES else 1})


def test_fields_of_a_config_are_searched_like_others():
    read = read_entry("x", {"method": "peft", "config": "MissConfig", "r": {"low": 2, "high": 8}}, TuneConfig(), 0)
    assert {*read.ranges} == {"r", "learning_rate"}
    two = {"method": "peft", "config": "MissConfig", "layers_to_transform": [0, 1], "target_modules": ["q_proj"]}
    assert read_entry("x", two, TuneConfig(), 0).fixed["layers_to_transform"] == [0, 1]  # a list, and no range
    assert all(isinstance(method.r, int) for method in read.methods())
    assert read.fixed == {"config": "MissConfig"}


@pytest.mark.parametrize("name", sorted(configs()))
def test_what_a_config_lets_an_entry_set_is_shown(name):
    done = CliRunner().invoke(main, ["methods", name])
    if name in REFUSED:
        assert done.exit_code == 2
        assert f"methods.config: {name} {REFUSED[name]}" in done.output
        return
    assert not {*for_config(name).model_fields} & {*LEFT_OUT}
    shown = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert shown == {*for_config(name).model_fields}
    assert f"{{method: peft, config: {name}}}" in done.stdout
    assert json.loads(CliRunner().invoke(main, ["methods", name, "--json"]).stdout)[name]["fields"].keys() == shown


def test_blocks_are_put_on_diagonals_as_torch_does_one_by_one():
    blocks = torch.randn(2, 3, 4, 4, requires_grad=True)
    expected = torch.stack([torch.block_diag(*rotation) for rotation in blocks])
    assert torch.equal(Blocks().forward(blocks.detach())[0], expected)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    assert torch.equal(Blocks().backward(gradient, blocks)[0], blocks.grad)


def test_a_config_has_the_range_and_all_else_of_its_own_method():
    for name in sorted({*configs()} - {*REFUSED}):
        read, own = read_entry("x", {"method": "peft", "config": name}, TuneConfig(), 0), own_class(name)
        assert read.ranges["learning_rate"] == Range(*own.search_range["learning_rate"])
        assert read.methods()[0].target_modules == own.model_fields["target_modules"].default
    entries = [{"method": "boft"}, {"method": "peft", "config": "BOFTConfig", "boft_n_butterfly_factor": 2}]
    counts = [count_parameters(build_method("x", e).adapt(family_shape("gpt2"), None)) for e in entries]
    assert counts[0] == counts[1]  # PEFT alone takes another factor where it cannot compile an extension
    lora = {"config": "LoraConfig", "r": 4}
    assert check_method("peft", "qwen2", lora, checks=["loads_as_it_was_saved"], quantize="nf4") is None


@pytest.mark.parametrize(
    "settings",
    [
        {"config": "OFTConfig", "oft_block_size": 4, "use_cayley_neumann": False},
        {"config": "GraloraConfig", "r": 4, "hybrid_r": 2},
        {"config": "LoraConfig", "r": 4, "use_rslora": True, "rank_pattern": {"c_fc": 2}},
        {"config": "MissConfig", "r": 4, "init_weights": "bat"},
        {"config": "BOFTConfig", "boft_n_butterfly_factor": 2},
        {"config": "ShiraConfig", "r": 4},
        {"config": "SupertuningConfig", "sparsity": 0.9},
        {"config": "GloraConfig", "r": 4},
    ],
    ids=lambda settings: settings["config"],
)
def test_an_entry_with_a_config_keeps_the_contract(settings):
    assert check_method("peft", "gpt2", settings) is None


def test_every_tuner_of_this_peft_is_a_method_or_refused_with_a_reason():
    configs = {config.__name__ for config in PEFT_TYPE_TO_CONFIG_MAPPING.values()}
    own = {getattr(method_class(name), "config_class", None) for name in method_names()}
    own |= {"LNTuningConfig", "PromptTuningConfig", "PromptEncoderConfig"}  # which these methods make by themselves
    assert configs == (configs & own) | {*REFUSED}
    assert all(hasattr(peft, name) for name in own - {None, ""})


# Fields that PEFT has elsewhere (in another config, or in the optimizer), or not at all.
OURS = {
    "adalora": {"tinit_share", "tfinal_share"}, "bd_lora": {"nblocks"}, "eva": {"tau"},
    "gradient_ranks": {"gradient_examples"}, "lora_compressed": {"saved_r"}, "lora_plus": {"loraplus_lr_ratio"},
    "wise_lora": {"mixtures"},
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in method_names() if issubclass(method_class(n), Injected)])
def test_fields_have_the_names_that_they_have_in_pefts_config(name):
    cls = method_class(name)
    own = {*cls.model_fields} - {*Method.model_fields} - OURS.get(name, set())
    assert not cls.config_class or own <= {*getattr(peft, cls.config_class).__dataclass_fields__}


def test_the_page_says_what_is_refused():
    page = (Path(__file__).parent.parent / "docs/methods.md").read_text()
    for field in LEFT_OUT:
        assert f"`{field}`" in page
    for config, why in REFUSED.items():
        named = why.removeprefix(OWN) if why.startswith(OWN) else config
        assert f"`{named}`" in page, config

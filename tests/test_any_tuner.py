"""The entry `peft`: fields of PEFT's own configs, with the checks of every other method."""

from pathlib import Path

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from bakeoff.compute.model.base import adapt
from bakeoff.config.stages import TuneConfig
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.methods.any_tuner import OWN, REFUSED
from bakeoff.testing import check_method, family_base, family_shape
from bakeoff.tuning.entries import read_entry


def entry(**settings):
    return build_method("x", {"method": "peft", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^entries.x.config: field required"),
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
        ({"config": "OFTConfig", "inference_mode": True}, "'inference_mode' is not a field of peft"),
        ({"config": "OFTConfig", "coft": True}, "'coft' is not a field of peft"),
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
    ],
)
def test_settings_that_do_not_fit_the_base_are_refused_in_a_plan(settings, message):
    with pytest.raises(SetupError, match=message) as error:
        entry(**settings).adapt(family_shape("opt"), None)
    assert "\n" not in str(error.value)


def test_settings_that_change_the_base_are_refused():
    method = entry(config="LoraConfig", r=4, init_lora_weights="pissa")
    with pytest.raises(SetupError, match="changes weights of the base at the start .*Try: .*the method pissa"):
        adapt(family_base("llama"), method)


def test_fields_of_a_config_are_searched_like_others():
    read = read_entry("x", {"method": "peft", "config": "MissConfig", "r": {"low": 2, "high": 8}}, TuneConfig(), 0)
    assert {*read.ranges} == {"r", "learning_rate"}
    assert all(isinstance(method.r, int) for method in read.methods())
    assert read.fixed == {"config": "MissConfig"}


@pytest.mark.parametrize(
    "settings",
    [
        {"config": "OFTConfig", "oft_block_size": 4, "use_cayley_neumann": False},
        {"config": "GraloraConfig", "r": 4, "hybrid_r": 2},
        {"config": "LoraConfig", "r": 4, "use_rslora": True, "rank_pattern": {"k_proj": 2}},
        {"config": "MissConfig", "r": 4, "init_weights": "bat"},
    ],
    ids=lambda settings: settings["config"],
)
def test_an_entry_with_a_config_keeps_the_contract(settings):
    assert check_method("peft", "llama", {"r": settings.get("r", 0), **settings}) is None


def test_every_tuner_of_this_peft_is_a_method_or_refused_with_a_reason():
    configs = {config.__name__ for config in PEFT_TYPE_TO_CONFIG_MAPPING.values()}
    own = {getattr(method_class(name), "config_class", None) for name in method_names()}
    own |= {"LNTuningConfig", "PromptTuningConfig", "PromptEncoderConfig"}  # which these methods make by themselves
    assert configs == (configs & own) | {*REFUSED}
    assert all(hasattr(peft, name) for name in own - {None, ""})


def test_the_page_says_what_is_refused():
    page = (Path(__file__).parent.parent / "docs/methods.md").read_text()
    for config, why in REFUSED.items():
        named = why.removeprefix(OWN) if why.startswith(OWN) else config
        assert f"`{named}`" in page, config

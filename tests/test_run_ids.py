"""What a run's id says: equal for what gives equal results however it is written, and known again by later versions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bakeoff
from bakeoff.config.sections import ProtocolConfig
from bakeoff.config.stages import TuneConfig
from bakeoff.driver.runs import make_runs
from bakeoff.errors import ConfigError
from bakeoff.tuning.entries import read_entry


def ids(fields, tune=TuneConfig(), name="lora"):  # noqa: B008 (it is frozen)
    entry = read_entry(name, {"method": "lora", **fields}, tune, 0, trials=3)
    return [run.id for run in make_runs(ProtocolConfig(seeds=2), {}, {name: entry}, 10, {})]


SPELLINGS = {
    "r": [4, "4", 4.0],
    "lora_alpha": [8, 8.0, "8", "8.0"],
    "lora_dropout": [0.1, "0.1", "1e-1", 1e-1],
}
DEFAULTS = {"r": [16, "16"], "lora_alpha": [32, 32.0], "lora_dropout": [0, 0.0, "0"]}


@given(
    given=st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in SPELLINGS.items()}),
    written=st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in DEFAULTS.items()}),
    tuned=st.booleans(),
)
def test_a_default_that_is_written_out_and_another_spelling_make_no_other_run(given, written, tuned):
    tune = TuneConfig() if tuned else None
    plain = {name: SPELLINGS[name][0] for name in given}
    assert ids(written | given, tune) == ids(plain, tune)


def test_other_settings_make_other_runs():
    assert len({tuple(ids(fields)) for fields in ({}, {"r": 4}, {"r": 8}, {"lora_dropout": 0.1})}) == 4


def test_the_ids_of_finished_bakeoffs_stay():
    """Made by version 0.1.0 for the same entries: their runs are not made again."""
    assert ids({})[-1] == "lora-b7cdadeb35"
    assert ids({"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]})[-1] == "lora-24683dded5"
    assert ids({"lora_dropout": 0.1, "r": {"low": 2, "high": 8}})[-1] == "lora-7cc9eed04a"


def test_names_that_differ_in_case_only_are_refused(tiny_config):
    """Their runs would have one folder where the disk knows no case."""
    tiny_config["entries"] = {"lora": {"r": 2}, "LoRA": {"method": "lora", "r": 2}}
    with pytest.raises(ConfigError, match=r"entries.lora: differs from LoRA in upper and lower case only"):
        bakeoff.plan(tiny_config)


@pytest.mark.parametrize("change", [{"metrics": ["rouge", "chrf"]}, {"generation": {"max_new_tokens": 3}}])
def test_another_metric_or_generation_trains_nothing_again(tiny_config, change):
    before, after = bakeoff.plan(tiny_config), bakeoff.plan({**tiny_config, **change})
    trained = [[run["id"] for run in plan["runs"] if run["kind"] == "entry"] for plan in (before, after)]
    assert trained[0] == trained[1]

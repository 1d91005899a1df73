"""Recipes that people type are planned without weights, data or a network: exact counts from shapes that are known."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bakeoff.cli.main import main
from bakeoff.config.loading import load_config
from bakeoff.config.templates import target_template

RECIPES = Path(__file__).parent.parent / "recipes"
# The bases' parameters as their authors count them, and trained ones that follow from a shape by hand.
EXPECTED = {
    "study": (124_439_808, {"prompt_tuning": 6 * 768, "last_layers": 45_685_248, "lora": 4_718_592}),
    # LoRA on q and v of 12 encoder and twice 12 decoder attentions, 768 x 768 each
    "flan-t5-dialogsum": (247_577_856, {"prompt_tuning": 20 * 768, "lora": 36 * 2 * 2 * 768 * 16}),
    "olmo2-1b-dialogsum": (1_484_916_736, {"prompt_tuning": 20 * 2048, "last_layers": 67_117_056}),
    # LoRA on q, k, v and o (2048 x 2048), gate, up and down (2048 x 8192) of 16 blocks
    **dict.fromkeys(
        ("ag-news", "dialogsum-json"),
        (
            1_484_916_736,
            {
                "prompt_tuning": 20 * 2048,
                "last_layers": 67_117_056,
                "lora": 16 * 16 * (4 * 2 * 2048 + 3 * (2048 + 8192)),
            },
        ),
    ),
    # LoRA on q and o (1024 x 2048), k and v (1024 x 1024), gate, up and down (1024 x 3072) of 28 blocks
    **dict.fromkeys(
        ("instruct-chats", "dialogsum-chat"),
        (
            596_049_920,
            {
                "prompt_tuning": 20 * 1024,
                "last_layers": 15_730_944,
                "lora": 28 * 16 * (2 * (1024 + 2048) + 2 * (1024 + 1024) + 3 * (1024 + 3072)),
            },
        ),
    ),
    # q, k and v, o, gate and up, down of 36 blocks
    "qwen3-8b-dialogsum": (
        8_190_735_360,
        dict.fromkeys(("qlora", "lora"), 36 * 16 * (8192 + 2 * 5120 + 8192 + 2 * 16384 + 16384)),
    ),
    # LoRA on q and o (640 x 1024), k and v (640 x 256), gate, up and down (640 x 2048) of 18 blocks; IA3 on what q and
    # v put out and what comes down
    **dict.fromkeys(
        ("real", "real-methods", "real-shared"),
        (
            268_098_176,
            {
                "prompt_tuning": 20 * 640,
                "last_layers": 2 * 5_573_632 + 640,
                "lora": 18 * 16 * (7 * 640 + 2 * 1024 + 2 * 256 + 3 * 2048),
                "ia3": 18 * (1024 + 256 + 2048),
                "full": 268_098_176,
            },
        ),
    ),
}
# Recipes whose examples are made by a command here, or are a file of the user's.
HUB = "data={source: knkarthick/dialogsum, train_limit: 2000, validation_limit: 48, test_limit: 100}"
CHATS = "data={source: someone/chats, messages: messages, train_limit: 2000, validation_limit: 48, test_limit: 100}"
MADE = {**dict.fromkeys(("real", "real-methods", "real-shared"), HUB), "instruct-chats": CHATS}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_is_planned_from_nothing(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    given = ["-s", MADE[name]] if name in MADE else []
    done = CliRunner().invoke(main, ["plan", str(RECIPES / f"{name}.yaml"), "--json", *given])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    total, trained = EXPECTED[name]
    assert plan["model"]["total_parameters"] == total
    assert {entry: plan["entries"][entry]["trainable_parameters"] for entry in trained} == trained
    assert any("not on this machine, and the hub does not answer" in finding for finding in plan["data"]["findings"])
    assert plan["data"]["splits"]["train"]["examples"] > 1000


TARGETS = {
    "ag-news": ({"label": 3}, "", "Technology"),
    "dialogsum-json": ({"topic": 'a "b"'}, "c\nd", '{"topic": "a \\"b\\"", "summary": "c\\nd"}'),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_of_a_recipe_is_what_its_metric_scores(name):
    config = load_config(RECIPES / f"{name}.yaml")
    row, summary, target = TARGETS[name]
    made = target_template(config.target).text(row, summary=summary)
    assert made == target
    assert made in config.labels if config.labels else json.loads(made)

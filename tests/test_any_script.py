# ruff: noqa: RUF001
"""Words, sentences and metrics beyond Latin script and plain words: each sees what it scores, or a finding says no."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bakeoff
from bakeoff.data.examples import Example
from bakeoff.errors import ConfigError
from bakeoff.scoring.baselines import extract, extract_settings, oracle
from bakeoff.scoring.metrics import METRICS, blind_spots, rules, score_outputs, signature
from bakeoff.scoring.rouge import sentences_at_marks
from bakeoff.scoring.sentences import lead, sentences
from bakeoff.scoring.words import tokens, words
from tests.conftest import write_rows

CHINESE = "2024年港口开放桥梁。"
RUSSIAN = "Музей и школа откроют через 3 дней."


def value(name, output, reference):
    row = score_outputs([name], [output], [[reference]])[0][0]
    score = row[METRICS[name].primary]
    return score["f"] if isinstance(score, dict) else score


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Dr. Smith went home. He slept.", ["Dr. Smith went home.", "He slept."]),
        ("The U.S. Army came. It left at 5 p.m. The end.", ["The U.S. Army came.", "It left at 5 p.m.", "The end."]),
        (
            "J. R. Smith, e.g. in Fig. 3, said no. Nobody came.",
            ["J. R. Smith, e.g. in Fig. 3, said no.", "Nobody came."],
        ),
        ("Acme Inc. in Ohio paid. So did I. We won!", ["Acme Inc. in Ohio paid.", "So did I.", "We won!"]),
        ("3.5 is one. Really? yes\nA line", ["3.5 is one.", "Really? yes", "A line"]),
        ("据报道，学校开放。“没有人受伤。”他说！真的？", ["据报道，学校开放。", "“没有人受伤。”", "他说！", "真的？"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("Solve a x = b. Returned is x. See y.", ["Solve a x = b.", "Returned is x.", "See y."]),
        ("", []),
    ],
)
def test_sentences_end_where_they_end(text, found):
    assert sentences(text) == found


@given(st.text(st.sampled_from("ab AB.!?。\n")))
def test_sentences_lose_nothing(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.lists(st.sampled_from(["a dog", "Two cats", "it ran", "Yes"]), max_size=6), st.integers(1, 4))
def test_lead_of_plain_sentences_is_what_it_was(parts, count):
    text = " ".join(f"{part.capitalize()} here." for part in parts)
    assert lead(text, count) == " ".join(" ".join(s.split()) for s in sentences_at_marks(text)[:count])


def test_extracts_of_any_script():
    document = "据报道，学校开放。有两个人看到了。没有人受伤。"
    assert extract("lead-2", [Example("1", document, "x")], {}) == ["据报道，学校开放。有两个人看到了。"]
    assert oracle(document, "两个人看到") == "有两个人看到了。"
    assert oracle("学校开放。医院关闭。大家回家。", "学校开放大家回家") == "学校开放。大家回家。"


def test_ids_of_extracts_change_where_their_texts_may_and_nowhere_else():
    assert extract_settings([Example("1", "One dog. Two dogs.\nA tree.", "café")]) == ({}, {})
    lead_k, best = extract_settings([Example("1", "Dr. Smith left. He slept.", "left")])
    assert lead_k == best == {"sentences": "of any script, not at abbreviations"}
    assert extract_settings([Example("1", "Привет мир. Да.", "Привет")]) == ({}, {"words": "of any script"})


def test_tokens_keep_signs_points_and_operators():
    assert tokens("-5 <= 3.5, C# isn't") == ["-5", "<=", "3.5", ",", "c", "#", "isn", "'", "t"]
    assert words("2019年 naïve हिन्दी -5") == ["2019", "年", "naïve", "हिन्दी", "-5"]
    assert tokens("5-3") == ["5", "-", "3"]


@pytest.mark.parametrize(
    ("output", "reference"), [("5", "-5"), ("3.5", "35"), ("<=", ">="), ("C#", "C"), ("", "A"), (".", "A"), ("a", "A")]
)
def test_exact_match_keeps_what_carries_the_meaning(output, reference):
    assert value("exact_match", output, reference) == 0
    assert value("exact_match", f" {reference}\n", reference) == 1
    assert value("token_f1", output, reference) < 1 or output.lower() == reference.lower()


def test_squads_rule_is_named_and_says_what_it_drops():
    assert value("exact_match_squad", "The C#", "c") == 1
    assert value("token_f1_squad", "a dog ran!", "The dog") == pytest.approx(2 / 3)
    test = [Example(str(i), "d", f"-{i}.5") for i in range(5)]
    (line,) = blind_spots(["exact_match", "exact_match_squad"], test)
    assert line.startswith("metrics: exact_match_squad: 100% of the text in the test references is invisible to it")
    assert line.endswith("Try exact_match")
    assert blind_spots(["exact_match_squad"], [Example("1", "d", "Paris")]) == []
    words = [Example("1", "d", "a well-known and/or late e-mail of AT&T")]  # one word each to both
    assert blind_spots(["exact_match_squad", "token_f1_squad"], words) == []
    for name in ("exact_match", "token_f1", "exact_match_squad", "token_f1_squad"):
        assert ("SQuAD" in signature([name], several=False)) == name.endswith("squad")


def test_a_rule_that_changed_changes_ids_and_others_do_not():
    found = dict(rules(["rouge", "chrf", "bleu", "exact_match", "token_f1"], [Example("1", "d", "s")]))
    assert {name for name, rule in found.items() if rule} == {"exact_match", "token_f1"}


@pytest.mark.parametrize("text", [CHINESE, RUSSIAN, "สวัสดีครับ", "مرحبا بالعالم"])
def test_a_metric_that_cannot_see_the_script_says_so_and_one_that_can_is_offered(text):
    test = [Example("1", "d", text)]
    (line,) = blind_spots(["chrf", "rouge", "rouge_unicode", "token_f1", "bleu_char"], test)
    assert line.startswith("metrics: rouge: ")
    assert line.endswith("it sees only a to z and 0 to 9. Try rouge_unicode or chrf")
    for name in ("rouge_unicode", "chrf", "token_f1", "bleu_char"):
        assert value(name, text, text) == pytest.approx(1, abs=1e-6)
    assert value("rouge_unicode", text.replace("。", "").replace(".", ""), text) == pytest.approx(1)


def test_a_plan_says_it_of_the_metrics_that_are_chosen(tmp_path):
    rows = [{"document": f"Отчёт {i}: {RUSSIAN}", "summary": f"{RUSSIAN} {i}"} for i in range(6)]
    data = {s: str(write_rows(tmp_path / s, rows)) for s in ("train", "validation", "test")}
    config = {
        "data": data,
        "entries": ["last_layers"],
        "metrics": ["chrf", "rouge"],
        "baselines": ["base"],
        "tune": None,
    }
    found = bakeoff.plan(config)["data"]["findings"]
    assert sum("metrics: " in line for line in found) == 1
    assert any("metrics: rouge: " in line for line in found)


def test_bleu_of_a_script_without_spaces_is_a_finding():
    (line,) = blind_spots(["bleu", "bleu_zh"], [Example("1", "d", CHINESE)])
    assert line.startswith("metrics: bleu: ")
    assert "Try bleu_zh" in line
    assert blind_spots(["bleu"], [Example("1", "d", RUSSIAN)]) == []
    assert blind_spots(["rouge", "bleu"], [Example("1", "d", "plain words")]) == []


def test_bleus_tokenizer_is_chosen_and_in_the_signature():
    assert value("bleu", "2024年港口开放工厂。", CHINESE) == 0
    assert 0 < value("bleu_zh", "2024年港口开放工厂。", CHINESE) < 1
    assert "tok:zh" in signature(["bleu_zh"], several=False)
    assert "tok:13a" in signature(["bleu"], several=False)
    with pytest.raises(ConfigError, match=r"metrics: bleu_ja_mecab: .*Try: pip install 'sacrebleu\[ja\]'"):
        rules(["bleu_ja_mecab"], [Example("1", "d", "s")])


def test_rouge_of_a_number_alone_is_not_the_score_of_a_chinese_text():
    other = "2024年完全不同的内容"
    assert value("rouge", other, CHINESE) == 1
    assert value("rouge_unicode", other, CHINESE) < 0.35
    row = score_outputs(["rouge_unicode"], [other], [[CHINESE, other]])[0][0]
    assert row["rougeL_unicode_max"]["f"] == 1
    assert "Unicode letters" in signature(["rouge_unicode"], several=True)

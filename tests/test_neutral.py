import sys

import pytest
import torch

from bakeoff.compute.model.base import adapt, load_base, trainable
from bakeoff.compute.training.loss import evaluate_loss, mean_loss
from bakeoff.config.config import Config
from bakeoff.driver.plan import decoding_by
from bakeoff.methods import build_method
from bakeoff.scoring.forgetting import PASSAGE_TOKENS, PASSAGES, neutral_rows, passages, prose, with_forgetting
from bakeoff.store.results_document import MeanScore
from tests.test_forms import tokenizer_that_adds
from tests.test_verdict import row_of


def test_passages_are_prose_and_the_same_each_time():
    texts = passages()
    assert len(texts) == PASSAGES
    passages.cache_clear()
    assert texts == passages()
    assert len(set(texts)) == PASSAGES
    assert all(text.endswith(".") and "::=" not in text and 60 <= len(text.split()) <= 150 for text in texts)


def test_grammar_code_and_headings_are_no_prose():
    words = "these are plain words of which a sentence may be made " * 7
    good = f"And {words}so it ends."
    code = "    " + good
    grammar = f'And ::= ("(" [list] ")" | "=" ("*" | "+"))* {words[:200]} {"[|]+=" * 90} ends.'
    assert list(prose(f"Title\n*****\n\n{good}\n\n{code}\n\n{grammar}\n\nShort one.")) == [good]


def test_rows_fit_and_hold_no_template():
    tokenizer = load_base("base", "fp32").tokenizer
    rows = neutral_rows(tokenizer, 512)
    assert 60 * PASSAGES < sum(len(row.target) for row in rows) < PASSAGE_TOKENS * PASSAGES
    assert all(len(row.prompt) == 1 and len(row) <= PASSAGE_TOKENS for row in rows)
    assert (
        tokenizer.decode(rows[0].prompt + rows[0].target)
        == passages()[0][: len(tokenizer.decode(rows[0].prompt + rows[0].target))]
    )
    assert max(len(row) for row in neutral_rows(tokenizer, 32)) == 32
    halves = neutral_rows(tokenizer, 32, encoder_decoder=True)
    assert all(len(row.prompt) == len(row.target) == 16 for row in halves)


@pytest.mark.parametrize("begin", [["<s>"], ["<s>", "</s>"]])
def test_a_passage_begins_with_what_the_tokenizer_puts_before_a_text(begin):
    tokenizer = tokenizer_that_adds(" ".join([*begin, "$A"]))
    rows = neutral_rows(tokenizer, 48)
    assert rows
    for row in rows:
        assert row.prompt == tokenizer.convert_tokens_to_ids(begin)
        assert len(row) == 48


def test_the_loss_is_the_models_own(base):
    row = max(neutral_rows(base.tokenizer, 48), key=len)
    ids = torch.tensor([row.prompt + row.target])
    with torch.no_grad():
        expected = base.model(input_ids=ids, labels=ids).loss.item()
    assert mean_loss(evaluate_loss(base, base.model, [row], 1)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["lora", "last_layers"])
def test_an_untouched_adapter_forgets_nothing_and_a_moved_one_changes_the_loss(name, base):
    rows = neutral_rows(base.tokenizer, 48)
    before = mean_loss(evaluate_loss(base, base.model, rows, 4))
    adapted = adapt(base, build_method(name, {"method": name}))
    assert mean_loss(evaluate_loss(base, adapted, rows, 4)) == before
    with torch.no_grad():
        for weight in trainable(adapted).values():
            weight.add_(torch.randn_like(weight) * 0.5)
    assert mean_loss(evaluate_loss(base, adapted, rows, 4)) != before


def test_without_the_module_nothing_is_measured(monkeypatch, base):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    passages.cache_clear()
    assert neutral_rows(base.tokenizer, 48) == []
    passages.cache_clear()


def test_forgetting_is_adapted_minus_base():
    def row(kind, quantize="none", **losses):
        return row_of(kind).model_copy(
            update={
                "method": "base" if kind == "baseline" else "lora",
                "quantize": quantize,
                "metrics": {f"{k}/loss": MeanScore(mean=v) for k, v in losses.items()},
            }
        )

    rows = {"base": row("baseline", neutral=4.0), "a": row("entry", neutral=4.5), "b": row("entry", test=1.0)}
    rows |= {"base-nf4": row("baseline", "nf4", neutral=4.25), "c": row("entry", "nf4", neutral=4.5)}
    rows = with_forgetting(rows)
    assert rows["a"].metrics["neutral/forgetting"] == MeanScore(mean=0.5)
    assert rows["c"].metrics["neutral/forgetting"] == MeanScore(mean=0.25)
    assert "neutral/forgetting" not in rows["b"].metrics | rows["base"].metrics
    rows = {"base": row("baseline"), "a": row("entry", neutral=4.5)}
    rows = with_forgetting(rows)
    assert "neutral/forgetting" not in rows["a"].metrics


def test_a_run_is_decoded_again_if_its_neutral_text_began_otherwise(base):
    """Older records hold a loss without <bos>; those of bases that put nothing before a text are as they were."""
    config = Config.model_validate({"data": "demo", "entries": ["lora"]})
    assert decoding_by(config, "fp32", base.tokenizer) == decoding_by(config, "fp32", None)
    assert decoding_by(config, "fp32", tokenizer_that_adds("<s> $A")) != decoding_by(config, "fp32", None)

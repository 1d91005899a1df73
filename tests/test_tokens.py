import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bakeoff.data.examples import Example
from bakeoff.data.tokens import encode, encode_targets, longest_output, statistics
from bakeoff.errors import DataError
from tests.conftest import WORDS

TEMPLATE = "ba {{ document }} TL;DR:"
WORDS_ST = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS_ST, st.lists(st.sampled_from(WORDS), min_size=1, max_size=10).map(" ".join))
def test_the_summary_always_fits_and_only_the_document_is_cut(base, document, summary):
    row = encode([Example("1", document, summary)], base.tokenizer, TEMPLATE, 32, 8, "data.train")[0]
    assert len(row) <= 32
    assert len(row.prompt) + 8 <= 32
    assert row.target == [*base.tokenizer(summary)["input_ids"], base.tokenizer.eos_token_id]
    whole = base.tokenizer(document)["input_ids"]
    head, tail = base.tokenizer("ba")["input_ids"], base.tokenizer("TL;DR:")["input_ids"]
    kept = row.prompt[len(head) : -len(tail)]
    assert row.prompt == head + kept + tail
    assert kept == whole[: len(kept)]
    assert row.cut == (len(kept) < len(whole))


def test_a_summary_that_leaves_no_room_is_refused(base):
    with pytest.raises(DataError, match=r"data.test: example '7': .*protocol.max_tokens=16"):
        encode([Example("7", "ba", "be " * 14)], base.tokenizer, TEMPLATE, 16, 4, "data.test")


def test_statistics_count_cut_documents(base):
    rows = encode([Example("1", "ba " * 50, "be"), Example("2", "ba", "be")], base.tokenizer, TEMPLATE, 32, 8, "x")
    assert statistics(rows)["cut_documents"] == 0.5


def test_outputs_may_be_as_long_as_all_but_a_hundredth_of_the_targets(base):
    examples = [Example(str(i), "ba", "be " * (i + 1)) for i in range(100)]
    assert longest_output(encode_targets(examples, base.tokenizer)) == 101


def test_tokens_survive_the_disk(base, tmp_path):
    from bakeoff.data.tokens import load_tokens, save_tokens

    rows = encode([Example("é1", "ba " * 50, "be"), Example("2", "ba", "be bi")], base.tokenizer, TEMPLATE, 32, 8, "x")
    save_tokens(tmp_path / "rows.npz", rows)
    assert load_tokens(tmp_path / "rows.npz") == rows

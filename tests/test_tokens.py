import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bakeoff.data import tokens
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form
from bakeoff.data.token_file import lengths_of, load_tokens, save_tokens
from bakeoff.data.tokens import encode, longest_output, statistics, target_lengths
from bakeoff.errors import DataError, SetupError
from tests.conftest import WORDS

TEMPLATE = "ba {{ document }} TL;DR:"


def form_of(base):
    return make_form(base.tokenizer, TEMPLATE, False)


WORDS_ST = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS_ST, st.lists(st.sampled_from(WORDS), min_size=1, max_size=10).map(" ".join))
def test_the_summary_always_fits_and_only_the_document_is_cut(base, document, summary):
    (row,) = encode([Example("1", document, summary)], form_of(base), 32, 8, "data.train")
    assert len(row) <= 32
    assert len(row.prompt) + 8 <= 32
    assert row.target == [*base.tokenizer(summary)["input_ids"], base.tokenizer.eos_token_id]
    whole = base.tokenizer(document)["input_ids"]
    head, tail = base.tokenizer("ba")["input_ids"], base.tokenizer("TL;DR:")["input_ids"]
    kept = row.prompt[len(head) : -len(tail)]
    assert row.prompt == head + kept + tail
    assert kept == whole[: len(kept)]
    assert row.cut == len(whole) - len(kept)
    assert (row.head, row.kept, row.tail) == (len(head), len(kept), len(tail))


def test_a_summary_that_leaves_no_room_is_cut_and_one_that_fits_is_not(base):
    long, fits = encode([Example("7", "ba", "be " * 10), Example("8", "ba", "be " * 9)], form_of(base), 16, 4, "x")
    assert (len(long.target), long.kept) == (4, 1)
    assert base.tokenizer.eos_token_id not in long.target
    assert (len(fits.target), fits.kept, fits.target[-1]) == (10, 1, base.tokenizer.eos_token_id)
    with pytest.raises(DataError, match=r"data.test: no room .* in 16 tokens beside outputs of 11 tokens"):
        list(encode([Example("7", "ba", "be")], form_of(base), 16, 11, "data.test"))


def test_the_default_longest_output_fits_beside_the_template(base):
    examples = [Example(str(i), "ba", "be " * 80) for i in range(100)]
    lengths = target_lengths(examples, form_of(base))
    assert longest_output(lengths, form_of(base), 87) == 81
    assert longest_output(lengths, form_of(base), 86) == 40  # half of what five tokens of template leave
    rows = list(encode(examples, form_of(base), 86, 40, "data.train"))
    assert {(len(row.target), row.kept) for row in rows} == {(40, 1)}


def test_statistics_count_cut_documents(base):
    rows = encode(
        [Example("1", "ba " * 50, "be"), Example("2", "ba", "be")],
        form_of(base),
        32,
        8,
        "x",
    )
    found = statistics(lengths_of(rows))
    histogram = found.pop("document_lengths")
    assert found.pop("target_lengths")["longest"] == 2
    kept = 32 - 8 - 5  # the template has five tokens
    assert found == {
        "examples": 2, "cut_documents": 0.5, "cut_tokens": (50 - kept) / 51, "prompt_tokens_mean": (32 - 8 + 6) / 2,
        "target_tokens_mean": 2,
    }  # fmt: skip
    assert (histogram["median"], histogram["longest"], sum(histogram["counts"])) == (25.5, 50, 2)


def test_outputs_may_be_as_long_as_all_but_a_hundredth_of_the_targets(base):
    examples = [Example(str(i), "ba", "be " * (i + 1)) for i in range(100)]
    assert longest_output(target_lengths(examples, form_of(base)), form_of(base), 512) == 101


def test_tokens_survive_the_disk(base, tmp_path):
    examples = [Example("é1", "ba " * 50, "be"), Example("2", "ba", "be bi"), Example("3", "ba be", "be")]
    rows = list(encode(examples, form_of(base), 32, 8, "x"))
    save_tokens(tmp_path / "rows.bin", iter(rows))
    stored = load_tokens(tmp_path / "rows.bin")
    assert list(stored) == rows
    assert list(stored[1:]) == rows[1:]
    assert stored[-1] == rows[-1]
    assert statistics(stored.lengths) == statistics(lengths_of(rows))
    assert [len(row) for row in rows] == lengths_of(stored).totals.tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["rows.bin"]


@pytest.mark.parametrize("kept", [0, 5, 60, -4])
def test_a_torn_token_file_is_refused(base, tmp_path, kept):
    file = tmp_path / "rows.bin"
    save_tokens(file, encode([Example("1", "ba be bi", "be")] * 4, form_of(base), 32, 8, "x"))
    stored = load_tokens(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SetupError, match="not a complete file of tokens"):
        load_tokens(file)
    if 0 <= kept < 16:
        with pytest.raises(SetupError, match="cut short while it was in use"):
            stored[3]


def test_chunks_change_no_token(base, monkeypatch):
    examples = [Example(str(i), " ".join(WORDS[: i + 1]), WORDS[i]) for i in range(30)]
    settings_ = (form_of(base), 64, 8, "x")
    whole = list(encode(examples, *settings_))
    monkeypatch.setattr(tokens, "CHUNK_EXAMPLES", 7)
    assert list(encode(examples, *settings_)) == whole
    monkeypatch.setattr(tokens, "CHUNK_CHARACTERS", 40)
    assert list(encode(examples, *settings_)) == whole


def test_what_stands_around_a_document_in_its_own_row_is_never_cut(base):
    form = make_form(base.tokenizer, "{{ title }} {{ document }} {{ question }}", False)
    examples = [Example("1", "ba " * 60, "be", around=("bi bo ", " ub?")), Example("2", "ba", "be", around=("", " an"))]
    first, second = encode(examples, form, 32, 8, "x")
    assert base.tokenizer.decode(first.prompt).split()[:3] == ["bi", "bo", "ba"]
    assert (first.head, first.tail, first.kept) == (2, 2, 32 - 8 - 4)
    assert first.cut == 60 - first.kept
    assert (second.head, second.tail, second.kept, second.cut) == (0, 1, 1, 0)
    with pytest.raises(DataError, match="x: example '3': no room .* beside 40 tokens of template. Shorten"):
        list(encode([Example("3", "ba", "be", around=("bi " * 40, ""))], form, 32, 8, "x"))

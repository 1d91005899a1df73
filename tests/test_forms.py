"""What stands around documents and summaries, for tokenizers that add nothing, a beginning, an end, or both."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form
from bakeoff.data.token_file import save_tokens
from bakeoff.data.tokens import Tokens, encode
from bakeoff.driver.counts import check_ids
from bakeoff.errors import DataError, SetupError

WORDS = ["<s>", "</s>", "[UNK]", "text", "summarize", ":", "one", "two", "three", "TL", ";", "DR"]
ONE, TWO, THREE = 6, 7, 8


def tokenizer_that_adds(template: str) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="[UNK]")


def row_of(added: str, encoder_decoder: bool, max_tokens: int = 32):
    form = make_form(tokenizer_that_adds(added), None, encoder_decoder)
    return next(encode([Example("1", "one two three", "two one")], form, max_tokens, 3, "data.train"))


@pytest.mark.parametrize(("added", "begin"), [("$A", []), ("<s> $A", [0]), ("$A </s>", []), ("<s> $A </s>", [0])])
def test_a_causal_prompt_begins_as_its_tokenizer_says_and_is_left_open(added, begin):
    row = row_of(added, encoder_decoder=False)
    assert row.prompt == [*begin, ONE, TWO, THREE, 9, 10, 11, 5]
    assert row.target == [TWO, ONE, 1]


@pytest.mark.parametrize(("added", "begin", "end"), [("$A", [], []), ("$A </s>", [], [1]), ("<s> $A </s>", [0], [1])])
def test_an_encoder_decoder_has_whole_texts_on_both_sides(added, begin, end):
    row = row_of(added, encoder_decoder=True)
    assert row.prompt == [*begin, 4, 5, ONE, TWO, THREE, *end]
    assert row.target == [*begin, TWO, ONE, 1]


def test_an_encoder_decoders_two_sides_have_a_context_each():
    assert row_of("$A </s>", True, 6).prompt == [4, 5, ONE, TWO, THREE, 1]
    row = row_of("$A </s>", True, 5)
    assert row.prompt == [4, 5, ONE, TWO, 1]
    assert row.cut
    with pytest.raises(DataError, match="no room for the document in 5 tokens"):
        row_of("$A", False, 5)


@pytest.mark.parametrize("own_space", [True, False])
def test_a_summary_begins_with_exactly_one_space(own_space):
    pieces = {"\u2581text": 0, "\u2581one": 1, "</s>": 2, "\u2581": 3, "text": 4, "one": 5}
    made = Tokenizer(models.BPE(vocab={**pieces, **{c: 6 + i for i, c in enumerate("textone")}}, merges=[]))
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    if own_space:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), made.normalizer])
    made.decoder = decoders.Replace("\u2581", " ")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="\u2581")
    assert make_form(tokenizer, None, False).targets(["one"]) == [[1, 2]]


def without_unknown(kind, letters):
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocabulary, []) if kind == "drops" else models.WordLevel(vocabulary))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("kind", ["drops", "refuses"])
def test_a_tokenizer_of_few_letters_without_an_unknown_token_has_a_form(kind):
    form = make_form(without_unknown(kind, "ACGT "), None, False)
    assert form.begin == [0]
    assert form.targets(["CA"])[0][-3:] == [3, 2, 1]
    with pytest.raises(SetupError, match="its tokenizer gives no tokens for any text"):
        make_form(without_unknown(kind, ""), None, False)


def test_a_text_that_a_tokenizer_refuses_is_one_line():
    form = make_form(without_unknown("refuses", "ACGT "), None, False)
    with pytest.raises(SetupError, match=r"its tokenizer cannot encode a text \(WordLevel error: Missing"):
        form.targets(["CAN"])


def test_an_id_beyond_what_a_file_holds_is_one_line(tmp_path):
    with pytest.raises(SetupError, match="the model's tokenizer gives the id 2147483648"):
        save_tokens(tmp_path / "a.bin", [Tokens([1], [2**31])])


def test_an_id_beyond_the_embeddings_is_seen_though_the_words_are_few():
    made = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "[UNK]": 2, "one": 5000}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="[UNK]")
    with pytest.raises(SetupError, match="has the token 'one', id 5000, and its embeddings have 4 rows"):
        check_ids("m", tokenizer, 4, {"train": [Tokens([2], [5000])]})


def test_llamas_own_tokenizer(request):
    from pathlib import Path

    from transformers import AutoTokenizer

    folder = Path(__file__).parent.parent.parent / "shared/models/stories260K"
    if not folder.exists():
        pytest.skip("needs ../shared/models/stories260K")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    form = make_form(tokenizer, None, False)
    assert form.begin == [tokenizer.bos_token_id]
    assert tokenizer.decode(form.targets(["Once upon"])[0], skip_special_tokens=True).strip() == "Once upon"
    assert form.targets(["Once upon"])[0][:-1] == tokenizer("Once upon", add_special_tokens=False)["input_ids"]

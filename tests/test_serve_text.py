"""Streamed text: whatever the tokenizer and the ids are, its pieces make the text that the evaluation scores."""

import random
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bakeoff.data.asking import Prompts
from bakeoff.data.prompt_format import plain
from bakeoff.serving.text import WINDOW, Text
from bakeoff.testing.chats import chat_tokenizer

CASES = 150


class Asking(Prompts):
    """Prompts of no bakeoff, whose outputs begin with a text that is no part of them."""

    def __init__(self, lead, indented):
        self.form, self.indented, self.stops = SimpleNamespace(lead=lead), indented, ()


def fast(tokenizer, **how):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", **how)


def llama_like():
    """Pieces with a mark for spaces, and bytes for what has no piece; decoding drops the first space."""
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁the", "▁a", "b", "c", "é", "▁▁", ".", "\n"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast(tokenizer)


def tidying():
    """Pieces of words, whose decoder tidies up spaces before marks."""
    pieces = ["<unk>", "</s>", "do", "##n", "n", "'", "'t", "t", ".", ",", "we", "##s", "!", "re", "'re", "i", "'m"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=True)
    return fast(tokenizer, clean_up_tokenization_spaces=True)


TOKENIZERS = {"bytes": lambda: chat_tokenizer("chatml"), "pieces": llama_like, "tidying": tidying}


@pytest.mark.parametrize("lead", ["", " ", "<think>\n\n</think>\n\n"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pieces_make_the_scored_text_up_to_the_first_stop(kind, lead):
    tokenizer, chosen, streamed, stopped = TOKENIZERS[kind](), random.Random(f"{kind}{lead}"), 0, 0
    known = [*range(len(tokenizer)), *[*range(258, len(tokenizer))] * 40]  # there are as many texts as bytes
    for case in range(CASES):
        ids = chosen.choices(known, k=chosen.choice([0, 1, 3, 12, 3 * WINDOW]))
        if case % 3 == 0 and kind != "tidying":
            ids = [*tokenizer(f"{lead}é 漢字 😀 \n b", add_special_tokens=False)["input_ids"], *ids[:5]]
        indented = case % 2 == 0
        whole = plain(tokenizer.decode(ids, skip_special_tokens=True).removeprefix(lead), indented)
        at = chosen.randrange(len(whole)) if whole else 0
        stops = [whole[at : at + chosen.randint(1, 4)], "never said"] if whole and case % 4 else []
        text = Text(Asking(lead, indented), tokenizer, stops)
        pieces = []
        for token in ids:
            pieces.append(text.add(token))
            if text.stopped:
                break
        pieces.append(text.end())
        first = min((whole.find(stop) for stop in stops if stop in whole), default=None)
        assert "".join(pieces) == whole[:first].rstrip(), (ids, stops)
        streamed += len([piece for piece in pieces if piece]) > 2
        stopped += text.stopped
    assert streamed > 20  # it is no stream if everything comes at the end
    assert stopped > 20

"""What a tokenizer makes of texts: special tokens that are written out, indents, unknown signs, texts that change."""

import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import bakeoff
from bakeoff.compute.decoding.summarizer import Summarizer
from bakeoff.compute.model.base import load_tokenizer
from bakeoff.config.loading import load_config
from bakeoff.data.examples import Example
from bakeoff.data.prompt_format import make_form, plain_ids, special_tokens
from bakeoff.data.token_file import load_tokens, save_tokens
from bakeoff.data.tokenizer_checks import Marked, look_at_tokens, marked
from bakeoff.data.tokens import encode
from bakeoff.driver.plan import make_plan
from bakeoff.errors import DataError
from bakeoff.scoring.prompted import first_answer, separator
from tests.conftest import make_rows, write_rows

CORPUS = ["the cat sat on the mat and went home", "a dog ran over the road today", "summarize: text TL;DR:"] * 5
ORDINARY = ["The cat sat.", "a dog  ran\n\nover", "naïve 東京 5 < 6", " return 0\n", "<s", "s>", "</", "end of text"]


@pytest.fixture(scope="module")
def tokenizers():
    """One of each kind: bytes (GPT-2's), SentencePiece (T5's), WordPiece (BERT's)."""
    t5 = Tokenizer(models.Unigram())
    t5.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    t5.pre_tokenizer, t5.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    t5.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    t5.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", t5.token_to_id("</s>"))])
    bert = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bert.decoder = decoders.WordPiece()
    bert.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    )
    return {
        "bytes": load_tokenizer("base"),
        "sentencepiece": PreTrainedTokenizerFast(
            tokenizer_object=t5, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
        ),
        "wordpiece": PreTrainedTokenizerFast(tokenizer_object=bert, eos_token="[SEP]", unk_token="[UNK]"),
    }


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "wordpiece"])
def test_special_tokens_written_out_in_data_stay_text_and_other_ids_stay_the_same(tokenizers, kind):
    tokenizer = tokenizers[kind]
    form = make_form(tokenizer, None, kind == "sentencepiece")
    special = {i for i in special_tokens(tokenizer) if i != tokenizer.unk_token_id or kind == "bytes"}
    texts = [f"The{token} cat" for token in special_tokens(tokenizer).values()] + [tokenizer.eos_token]
    for ids in form.documents(texts):
        assert not special & set(ids)
    for ids in form.targets(texts):
        assert [i for i in ids if i in special] == [tokenizer.eos_token_id]
    assert plain_ids(tokenizer, ORDINARY) == tokenizer(ORDINARY, add_special_tokens=False)["input_ids"]


def test_a_special_token_in_the_configs_own_template_is_the_token(tokenizers):
    tokenizer = tokenizers["bytes"]
    form = make_form(tokenizer, "{{ document }}<|endoftext|>TL;DR:", False)
    (row,) = encode([Example("1", "a<|endoftext|>b", "c")], form, 60, 4, "x")
    assert row.prompt.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(row.prompt) == "a<|endoftext|>b<|endoftext|>TL;DR:"


@pytest.mark.parametrize("text", ["    return 0", "\treturn 0", "  a\n\n    b", "plain", "the<|endoftext|> end"])
def test_a_target_comes_back_with_its_indent(tokenizers, text):
    form = make_form(tokenizers["bytes"], None, False)
    assert form.texts(form.targets([f"{text} \n"]), indented=True) == [text]
    assert form.texts(form.targets([text]), indented=False) == [text.strip()]


def test_texts_that_take_care_are_marked(tokenizers):
    form = make_form(tokenizers["bytes"], None, False)

    def of(*examples):
        return marked({"train": list(examples), "validation": [], "test": []}, form)

    assert of(Example("1", " document", "summary\n")).marks == []
    assert of(Example("1", "d", "  s")).marks == ["indent"]
    assert of(Example("1", "d <|endoftext|>", "s"), Example("2", "d", "s")).special == {"<|endoftext|>": 1}
    assert of(Example("1", "d", "s", around=("<|endoftext|>", ""))).marks == ["special tokens"]
    assert of(Example("1", "<|endoftext|>, <|endoftext|>", "<|endoftext|>")).special == {"<|endoftext|>": 1}


def findings(tmp_path, tokenizer, *texts, encoder_decoder=True, output_tokens=8):
    form = make_form(tokenizer, None, encoder_decoder)
    splits = {s: [Example(str(i), "the cat", t) for i, t in enumerate(texts)] for s in ("train", "validation", "test")}
    save_tokens(tmp_path / "rows", encode(splits["train"], form, 40, output_tokens, "x"))
    tokens = dict.fromkeys(splits, load_tokens(tmp_path / "rows"))
    return look_at_tokens(splits, tokens, form, Marked(), output_tokens)


def test_a_tokenizer_that_cannot_write_the_targets_is_refused(tmp_path, tokenizers):
    with pytest.raises(
        DataError, match=r"data.train: 100% of the targets' tokens are unknown .*<unk>.: it cannot write"
    ):
        findings(tmp_path, tokenizers["sentencepiece"], "机场开放。", "港口")


def test_the_share_of_unknown_tokens_and_texts_that_change_are_findings(tmp_path, tokenizers):
    lines = findings(tmp_path, tokenizers["sentencepiece"], "the cat sat {", *["the dog ran"] * 9)
    assert any("0.0% of the documents' tokens and" in line and "of the targets' are unknown" in line for line in lines)
    assert any(
        "1 of 10 (10.0%) targets (of those tried) change" in line and "'the cat sat {'" in line for line in lines
    )
    assert findings(tmp_path, tokenizers["sentencepiece"], "the cat sat") == []
    lines = findings(tmp_path, tokenizers["sentencepiece"], "the cat\n  sat")
    assert "'the cat\\n  sat' as 'the cat sat'" in lines[0]
    assert findings(tmp_path, tokenizers["bytes"], *ORDINARY, encoder_decoder=False) == []


def test_targets_that_were_cut_are_a_finding(tmp_path, tokenizers):
    lines = findings(tmp_path, tokenizers["bytes"], "the cat " * 40, "a", encoder_decoder=False)
    assert [line for line in lines if "1 of 2 (50.0%) targets leave no room for a document and are cut to 8" in line]


def test_few_shot_ends_at_what_no_target_holds():
    assert separator([Example("1", "d", "one\ntwo")]) == "\n\n"
    between = separator([Example("1", "d", "one\n\ntwo"), Example("2", "d", "a\n\n###\n\nb")])
    assert between == "\n\n####\n\n"
    assert first_answer(" one\n\ntwo\n\n####\n\nText", between) == "one\n\ntwo"
    assert first_answer("    one\n\n    two", "\n\n", indented=True) == "    one"


def test_ids_change_for_texts_that_were_read_otherwise_and_for_no_others(tiny_config, monkeypatch):
    tiny_config["baselines"] = ["base"]
    config = load_config(tiny_config)
    ordinary = make_plan(config, load_tokenizer(config.model))
    assert "texts" not in ordinary.held_equal
    monkeypatch.setattr("bakeoff.driver.examples.marked", lambda *_: Marked(1))
    other = make_plan(config, load_tokenizer(config.model))
    assert other.document.texts == ["indent"]
    assert other.data.data_fingerprint != ordinary.data.data_fingerprint
    assert not {run.id for run in other.runs} & {run.id for run in ordinary.runs}


def test_an_indent_is_learnt_scored_and_generated(tmp_path, monkeypatch):
    rows = [{**row, "summary": f"    {row['summary']}"} for row in make_rows(12, 3)]
    (tmp_path / "own.py").write_text("def same(output, references):\n    return float(output in references)\n")
    data = {s: str(write_rows(tmp_path / f"{s}.jsonl", rows)) for s in ("train", "validation", "test")}
    config = {
        "model": "base", "data": data, "entries": {"last_layers": {"learning_rate": 1e-3}}, "tune": None,
        "baselines": ["base"], "metrics": [f"{tmp_path}/own.py:same"], "output": str(tmp_path / "out"),
        "protocol": {"epochs": 1, "max_tokens": 120, "seeds": 1}, "generation": {"max_new_tokens": 12},
    }  # fmt: skip
    form = make_form(load_tokenizer("base"), None, False)
    learnt = iter([ids[:-1] for ids in form.targets([row["summary"] for row in rows])] * 2)

    def perfect(base, adapted, prompts, targets, *_):
        return [next(learnt) for _ in prompts], [(0.0, len(t)) for t in targets or prompts]

    monkeypatch.setattr("bakeoff.compute.run.evaluate.read_and_generate", perfect)
    results = bakeoff.run(config, display="none")
    assert results.document.entries["last_layers"].metrics["test/same"].mean == 1
    assert results.entry("last_layers").predictions()[0]["output"] == rows[0]["summary"]
    plan = json.loads(results.folder.plan_file.read_text())
    assert plan["texts"] == ["indent"]
    summarizer = results.entry("last_layers").load()
    assert isinstance(summarizer, Summarizer)
    assert summarizer.prompts.indented

import math
import shutil

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
)

import bakeoff
from bakeoff.config.loading import load_config
from bakeoff.data.examples import Example
from bakeoff.errors import BakeoffError, ConfigError
from bakeoff.scoring import learned
from bakeoff.scoring.metrics import rules, score_outputs

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "ran", ".", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["the cat sat on the mat .", "a dog ran .", "the dog sat .", "cat"]


def saved(folder, head, **about):
    """Write a tiny BERT with random weights and a vocabulary of a few words."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, pad_token_id=WORDS.index("[PAD]"), initializer_range=0.5, **about,
    )  # fmt: skip
    head(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "encoder", BertModel)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    labels = {"id2label": {0: "contradiction", 1: "entailment"}, "label2id": {"contradiction": 0, "entailment": 1}}
    return saved(tmp_path_factory.mktemp("models") / "nli", BertForSequenceClassification, num_labels=2, **labels)


def scores(name, outputs, references, documents=None):
    rows = [{"document": text} for text in documents or [""] * len(outputs)]
    return [next(iter(row.values())) for row in score_outputs([name], outputs, references, columns=rows)[0]]


def by_hand(folder, output, reference):
    """BERTScore's precision and recall, token by token."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)

    def states(text):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            found = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]  # of four layers
        return list(zip(ids, found, strict=True))

    def best(own, other):
        inner = [v for i, v in own if i not in tokenizer.all_special_ids]
        return sum(max(float(torch.cosine_similarity(v, w, dim=0)) for _, w in other) for v in inner) / len(inner)

    one, two = states(output), states(reference)
    return best(one, two), best(two, one)


def test_bertscore_is_the_one_of_the_paper_whatever_shares_its_batch(encoder):
    name = f"bertscore={encoder}"
    pairs = [(a, b) for a in TEXTS for b in TEXTS]
    found = scores(name, [a for a, _ in pairs], [[b] for _, b in pairs])
    for (a, b), score in zip(pairs, found, strict=True):
        p, r = by_hand(encoder, a, b)
        assert math.isclose(score["p"], p, abs_tol=1e-5)
        assert math.isclose(score["r"], r, abs_tol=1e-5)
        assert math.isclose(score["f"], 2 * p * r / (p + r), abs_tol=1e-5)
        assert a != b or math.isclose(score["f"], 1, abs_tol=1e-5)
    several = scores(name, TEXTS[:1], [TEXTS[1:]])
    alone = [scores(name, TEXTS[:1], [[text]])[0] for text in TEXTS[1:]]
    assert several[0]["f"] == pytest.approx(max(score["f"] for score in alone), abs=1e-5)


def test_an_empty_output_has_no_bertscore_and_is_not_consistent(encoder, judge):
    assert [score["f"] for score in scores(f"bertscore={encoder}", ["", ""], [["a dog ran ."], [""]])] == [0, 1]
    assert scores(f"consistency={judge}", [""], [["a"]], ["the cat sat ."]) == [0]
    assert scores(f"consistency={judge}", ["a cat ."], [["a"]], [""]) == [0]


def test_consistency_is_the_mean_over_sentences_of_the_best_entailment(judge):
    tokenizer = AutoTokenizer.from_pretrained(judge)
    model = BertForSequenceClassification.from_pretrained(judge)

    def entailed(premise, claim):
        with torch.no_grad():
            return model(**tokenizer(premise, claim, return_tensors="pt")).logits.softmax(-1)[0, 1].item()

    premises, claims = ["The cat sat.", "A dog ran."], ["A cat ran.", "The dog sat.", "Cat."]
    wanted = sum(max(entailed(premise, claim) for premise in premises) for claim in claims) / len(claims)
    found = scores(f"consistency={judge}", [" ".join(claims)], [["a"]], [" ".join(premises)])
    assert found == [pytest.approx(wanted, abs=1e-5)]
    each = scores(f"consistency={judge}", ["Cat."] * 2, [["a"]] * 2, premises[::-1])
    assert each == [pytest.approx(entailed(premise, "Cat."), abs=1e-5) for premise in premises[::-1]]


def test_long_texts_are_cut_and_not_an_error(encoder):
    long = "the cat sat on the mat . " * 9
    assert scores(f"bertscore={encoder}", [long], [[long]])[0]["f"] == pytest.approx(1, abs=1e-5)


def test_scores_belong_to_the_files_of_a_model_and_not_to_its_folder(encoder, tmp_path):
    test = [Example("1", "a dog .", "the cat .")]
    elsewhere = shutil.copytree(encoder, tmp_path / "copy")
    one, two = (rules([f"bertscore={folder}"], test) for folder in (encoder, elsewhere))
    assert one == two
    (elsewhere / "config.json").write_text((elsewhere / "config.json").read_text() + "\n")
    assert rules([f"bertscore={elsewhere}"], test) != one


def broken(folder, kind, tmp_path):
    """Return the folder of a model that cannot be used."""
    copy = tmp_path / "broken"
    if kind == "absent":
        return copy
    shutil.copytree(folder, copy)
    if kind == "pickle":
        torch.save({}, copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
    if kind == "damaged":
        (copy / "model.safetensors").write_bytes(b"\xff" * 64)
    return copy


@pytest.mark.parametrize(
    ("kind", "says"),
    [("absent", "no such folder"), ("pickle", "cannot be loaded"), ("damaged", "cannot be loaded")],
)
def test_a_model_that_cannot_be_used_is_one_line_in_the_plan(encoder, tmp_path, kind, says):
    test = [Example("1", "a dog .", "the cat .")]
    with pytest.raises(BakeoffError, match=says) as error:
        rules([f"bertscore={broken(encoder, kind, tmp_path)}"], test)
    assert "\n" not in str(error.value)


def test_a_model_of_another_kind_is_one_line(encoder, tmp_path):
    with pytest.raises(ConfigError, match="not a model of this kind"):
        learned.opened("consistency", str(encoder), "AutoModelForSequenceClassification")
    other = saved(tmp_path / "other", BertForSequenceClassification, num_labels=2)
    with pytest.raises(ConfigError, match="LABEL_0.*none is entailment|label_0.*none is entailment"):
        scores(f"consistency={other}", ["a cat ."], [["a"]], ["a dog ."])


def test_a_folder_is_relative_to_the_config_and_a_wrong_name_is_explained(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "enc")
    file = tmp_path / "config.yaml"
    file.write_text("{model: base, data: docstrings, entries: [lora], metrics: [bertscore=enc]}")
    assert load_config(file).metrics == [f"bertscore={tmp_path.resolve() / 'enc'}"]
    file.write_text("{model: base, data: docstrings, entries: [lora], metrics: [bertscores=enc]}")
    with pytest.raises(ConfigError, match="Did you mean 'bertscore=MODEL'"):
        load_config(file)


def test_a_bakeoff_is_scored_and_scored_again_by_models(encoder, judge, tmp_path):
    config = {
        "name": "learned", "model": "base", "output": str(tmp_path / "out"), "tune": None, "baselines": ["base"],
        "data": {"source": "docstrings", "train_limit": 8, "validation_limit": 4, "test_limit": 6},
        "entries": {"lora": {"learning_rate": 1e-3}},
        "protocol": {"epochs": 1, "max_tokens": 64, "seeds": 1}, "generation": {"max_new_tokens": 4},
        "metrics": [f"bertscore={encoder}"],
    }  # fmt: skip
    first = bakeoff.run(config, display="none")
    assert first.document.verdict.metric == "test/bertscore"
    trained = first.entries["lora"].runs
    more = bakeoff.run(config | {"metrics": [f"bertscore={encoder}", f"consistency={judge}"]}, display="none")
    found = more.entries["lora"].metrics
    assert found["test/bertscore"].mean == first.entries["lora"].metrics["test/bertscore"].mean
    assert 0 < found["test/consistency"].mean < 1
    assert more.entries["lora"].runs == trained

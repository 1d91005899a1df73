"""The embedded base is a real, useful model of the promised size, and its card says how it was made."""

import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bakeoff.hub import EMBEDDED

SENTENCES = [
    "Return a new array of given shape and type, filled with zeros. If the shape is an integer, the result has one "
    "dimension. Raises ValueError if the shape is negative.",
    "Parse the given string and return the number of bytes that were read. This function may be called many times.",
]


@pytest.fixture(scope="module")
def loaded():
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(EMBEDDED)


def test_its_size_and_shape_are_as_promised(loaded):
    model, tokenizer = loaded
    assert 6e6 <= sum(p.numel() for p in model.parameters()) <= 12e6
    assert model.config.model_type == "gpt2"
    assert model.config.n_positions == 512
    assert len(tokenizer) == model.config.vocab_size == 8192
    assert sum(f.stat().st_size for f in EMBEDDED.glob("*.safetensors")) <= 16 * 10**6
    assert tokenizer.decode(tokenizer("Größe 中 \t x")["input_ids"]) == "Größe 中 \t x"


@torch.no_grad()
def test_it_has_learnt_the_prose_of_documentation(loaded):
    model, tokenizer = loaded
    for text in SENTENCES:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
        # A uniform guess costs ln 8192 = 9.0 nats per token; half of it is far beyond single-token frequencies (6.4).
        assert loss < 0.5 * math.log(8192)


def test_its_card_names_recipe_data_and_losses():
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    tokens = int(re.search(r"tokens seen \| ([\d,]+)", card).group(1).replace(",", ""))
    assert tokens >= 30_000_000
    assert float(re.search(r"([\d.]+) nats per token", card).group(1)) < 4
    assert float(re.search(r"([\d.]+) bits per byte", card).group(1)) < 2
    assert "make base" in card
    assert len(re.findall(r"\w+ \d+\.\d+", card)) > 50

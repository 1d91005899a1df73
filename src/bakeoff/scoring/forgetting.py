"""Neutral text: English prose that no task trains on, to measure what an adapter makes the base forget.

This is for protocol rule 12. The passages are paragraphs of Python's own language reference, which comes with every
Python as `pydoc_data.topics`; they differ a little between minor versions.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from bakeoff.data.prompt_format import added_ids, plain_ids
from bakeoff.data.tokens import Tokens
from bakeoff.scoring.baselines import BASE
from bakeoff.store.results_document import MeanScore, ResultsRow

PASSAGES = 12
WORDS = (60, 150)
LETTER_SHARE = 0.9  # of a passage's characters without white space: grammar and code are no prose
PASSAGE_TOKENS = 128


@cache
def passages() -> tuple[str, ...]:
    """Return up to PASSAGES paragraphs, those that hash lowest; an empty list if this Python has no `pydoc_data`."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return ()
    texts = {text for page in topics.values() for text in prose(page)}
    return tuple(sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[:PASSAGES])


def prose(page: str) -> Iterator[str]:
    """Yield the paragraphs of WORDS words that are not indented and consist of whole sentences, mostly of letters."""
    for block in re.split(r"\n\s*\n", page):
        text = " ".join(block.split())
        letters = sum(c.isalpha() for c in text)
        whole = text[:1].isupper() and text.endswith(".") and WORDS[0] <= len(text.split()) <= WORDS[1]
        at_margin = not any(line[:1].isspace() for line in block.splitlines())
        if whole and at_margin and letters >= LETTER_SHARE * len("".join(text.split())):
            yield text


def neutral_rows(tokenizer: Any, max_tokens: int, encoder_decoder: bool = False) -> list[Tokens]:
    """Return the passages as rows without template: after the first token, every token is a target.

    Each begins with what the tokenizer puts before a text, as prompts do: without its <bos>, Gemma 3 270M has a loss of
    5.85 nats per token in place of 3.45. A loss over them is the language-model loss in nats per token. A soft prompt
    precedes each of them, too: it is part of the adapted model. An encoder-decoder reads the first half of a passage;
    its targets are the second half.
    """
    texts = list(passages())
    begin, _ = added_ids(tokenizer) if texts else ([], [])
    longest = min(PASSAGE_TOKENS, max_tokens)
    rows = [[*begin, *ids][:longest] for ids in plain_ids(tokenizer, texts)] if texts else []
    read = [len(row) // 2 if encoder_decoder else max(1, len(begin)) for row in rows]
    return [Tokens(row[:n], row[n:]) for row, n in zip(rows, read, strict=True) if n < len(row)]


def with_forgetting(rows: Mapping[str, ResultsRow]) -> dict[str, ResultsRow]:
    """Return rows whose entries' metrics have how the adapter changes the loss on neutral text: adapted minus own base.

    It is in nats per token, above 0 if the model got worse. It is missing if either loss was not measured. An entry's
    own base is stored as the entry's is: what fewer bits change is not forgotten by training.
    """
    losses = {name: row.metrics.get("neutral/loss") for name, row in rows.items()}
    stored = {name: row.quantize or "none" for name, row in rows.items()}
    bases = {stored[name]: losses[name] for name, row in rows.items() if row.method == BASE}
    found = dict(rows)
    for name, row in rows.items():
        own, adapted = bases.get(stored[name]), losses[name]
        if row.kind == "entry" and own and adapted:
            forgetting = {"neutral/forgetting": MeanScore(mean=adapted.mean - own.mean)}
            found[name] = row.model_copy(update={"metrics": row.metrics | forgetting})
    return found

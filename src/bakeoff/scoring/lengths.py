"""Lengths of outputs and references: a method that writes longer gains recall, so lengths are shown beside ROUGE."""

from collections.abc import Sequence
from typing import Any

from bakeoff.data.prompt_format import summary_ids

LENGTHS = ("output_words", "output_tokens", "reference_words", "reference_tokens")


def text_lengths(outputs: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Any) -> list[dict[str, float]]:
    """Return the LENGTHS of each output, and means over its references.

    Tokens are counted in the text, without end-of-text, so that copied and decoded outputs can be compared.
    """
    return [
        {
            "output_words": words([output]), "output_tokens": tokens([output], tokenizer),
            "reference_words": words(texts), "reference_tokens": tokens(texts, tokenizer),
        }
        for output, texts in zip(outputs, references, strict=True)
    ]  # fmt: skip


def words(texts: Sequence[str]) -> float:
    """Return the mean number of words, which are separated by white space."""
    return sum(len(text.split()) for text in texts) / len(texts)


def tokens(texts: Sequence[str], tokenizer: Any) -> float:
    """Return the mean number of tokens; an empty text has 0."""
    written = [text for text in texts if text.strip()]
    return sum(len(ids) for ids in summary_ids(tokenizer, written)) / len(texts) if written else 0.0

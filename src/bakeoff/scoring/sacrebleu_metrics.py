"""BLEU and chrF of sacrebleu, which is imported when they first score."""

from collections.abc import Callable, Sequence
from typing import Any

from bakeoff.errors import ConfigError
from bakeoff.scoring.metric import Measure, Metric, References, Rows
from bakeoff.scoring.words import unparted


def sacrebleu_metric(name: str, heading: str, explanation: str, make: Callable[[bool], Any], **about: Any) -> Metric:
    """Return one of sacrebleu's metrics; `make` returns its scorer, for sentences (True) or for a corpus."""

    def score(outputs: Sequence[str], references: References) -> Rows:
        scorer = make(True)
        pairs = zip(outputs, references, strict=True)
        return [{name: scorer.sentence_score(output, list(texts)).score / 100} for output, texts in pairs]

    def corpus(outputs: Sequence[str], references: References) -> dict[str, float]:
        return {f"{name}_corpus": make(False).corpus_score(list(outputs), streams(references)).score / 100}

    def signature(several: bool) -> str:
        scorer = make(False)
        scorer.corpus_score(["a"], [["a"]])
        return f"sacrebleu {name} | {scorer.get_signature()}"

    one = Measure(name, heading, f"{explanation}, a mean over outputs")
    whole = Measure(f"{name}_corpus", f"{heading} (corpus)", f"{explanation}, of all outputs together", corpus=True)
    return Metric((one, whole), name, score, corpus, signature, **about)


def bleu(tokenizer: str = "13a") -> Metric:
    """Return BLEU with one of sacrebleu's tokenizers; it raises ConfigError if that tokenizer is not installed."""

    def make(sentence: bool) -> Any:
        from sacrebleu.metrics import BLEU

        try:
            return BLEU(effective_order=sentence, tokenize=tokenizer)
        except (ImportError, RuntimeError) as error:  # MeCab's, which are packages of their own
            extra = tokenizer.partition("-")[0]
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"metrics: {name}: {reason:.100}. Try: pip install 'sacrebleu[{extra}]', or bleu_char"
            ) from None

    name = "bleu" if tokenizer == "13a" else f"bleu_{tokenizer.replace('-', '_')}"
    heading = "BLEU" if tokenizer == "13a" else f"BLEU ({tokenizer})"
    blind = {
        "unseen": unparted,
        "blind": "it reads text without spaces as one word. Try bleu_zh, bleu_ja_mecab or bleu_char, by language, "
        "or chrf",
    }
    return sacrebleu_metric(name, heading, "n-gram precision", make, **(blind if tokenizer in ("13a", "intl") else {}))


def character_f(sentence: bool) -> Any:
    """Return the scorer of chrF, the same for sentences and for a corpus."""
    from sacrebleu.metrics import CHRF

    return CHRF()


def streams(references: References) -> list[list[str | None]]:
    """Return references in sacrebleu's form: a list of every output's first, of every second, and so on."""
    longest = max(len(texts) for texts in references)
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(longest)]

"""The fixed ids around a document and around a summary, as the base's tokenizer and family want them.

What a tokenizer adds by itself tells what its base was trained with: a Llama's text begins with <s>, a T5's ends with
</s>, a BART's has both. A causal base reads on from the prompt, so nothing that would end a text stands there.
"""

from dataclasses import dataclass
from typing import Any

PLACE = "{{ document }}"
TEMPLATES = {False: f"{PLACE}\nTL;DR:", True: f"summarize: {PLACE}"}  # by whether the base is an encoder-decoder
SAMPLE = "text"


@dataclass(frozen=True)
class Form:
    """How an example becomes ids: `head` document `tail`, and `target_head` summary `target_tail`."""

    tokenizer: Any
    head: list[int]
    tail: list[int]
    target_head: list[int]
    target_tail: list[int]
    lead: str  # put before a summary's text: the space that byte-level tokenizers keep at the start of a word
    encoder_decoder: bool

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return each text's own ids."""
        return plain_ids(self.tokenizer, texts)


def make_form(tokenizer: Any, template: str | None, encoder_decoder: bool) -> Form:
    """Return the form of a base's examples; without a template, of the usual one for its family."""
    before, after = (template or TEMPLATES[encoder_decoder]).split(PLACE)
    head, tail = (plain_ids(tokenizer, [part])[0] if part else [] for part in (before, after))
    first, last = added_ids(tokenizer)
    end = tokenizer.eos_token_id
    if not encoder_decoder:
        return Form(tokenizer, first + head, tail, [], [end], lead_of(tokenizer), False)
    target_tail = last if end in last else [*last, end]
    return Form(tokenizer, first + head, tail + last, first, target_tail, "", True)


def plain_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of texts without what a tokenizer adds to a whole text."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def added_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a whole text."""
    own, whole = plain_ids(tokenizer, [SAMPLE])[0], tokenizer(SAMPLE)["input_ids"]
    for at in range(len(whole) - len(own) + 1):
        if whole[at : at + len(own)] == own:
            return whole[:at], whole[at + len(own) :]
    return [], []


def lead_of(tokenizer: Any) -> str:
    """Return the space before a summary, or nothing where the tokenizer starts every text with one by itself."""
    starts = tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, [SAMPLE])[0])[0]
    return "" if starts.startswith("\u2581") else " "

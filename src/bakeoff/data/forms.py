"""The form of an example: the fixed ids around a document and around a summary, as base and family want them.

What a tokenizer adds by itself tells what its base was trained with: a Llama's text begins with <s>, a T5's ends with
</s>, a BART's has both. A causal base reads on from the prompt, so nothing that would end a text stands there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.data.examples import Example
from bakeoff.data.templates import DOCUMENT, prompt_template

# By whether the base is an encoder-decoder.
TEMPLATES = {False: "{{ document }}\nTL;DR:", True: "summarize: {{ document }}"}
SAMPLE = "text"


@dataclass(frozen=True)
class Form:
    """How an example becomes ids: `begin` template and document `end`, and `target_begin` summary `target_end`.

    `constant` are the template's texts before and after the document; an example whose template takes more of its row
    brings its own (`around`).
    """

    tokenizer: Any
    template: str
    encoder_decoder: bool
    begin: list[int]
    end: list[int]
    constant: tuple[str, str]
    target_begin: list[int]
    target_end: list[int]

    def around(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Return the ids before and after the document in each example's prompt."""
        texts = [example.around or self.constant for example in examples]
        each = {text for pair in texts for text in pair if text}
        ids = dict(zip(each, plain_ids(self.tokenizer, list(each)), strict=True)) if each else {}
        return [([*self.begin, *ids.get(before, ())], [*ids.get(after, ()), *self.end]) for before, after in texts]

    def documents(self, texts: list[str]) -> list[list[int]]:
        """Return each document's own ids."""
        return plain_ids(self.tokenizer, texts)

    def targets(self, summaries: list[str]) -> list[list[int]]:
        """Return each summary's whole target."""
        own = summary_ids(self.tokenizer, summaries, self.encoder_decoder)
        return [[*self.target_begin, *ids, *self.target_end] for ids in own]


def make_form(tokenizer: Any, template: str | None, encoder_decoder: bool) -> Form:
    """Return the form of a base's examples; without a template, with the usual one of its family."""
    template = template or TEMPLATES[encoder_decoder]
    rows = prompt_template(template)
    constant = rows.around({DOCUMENT: ""}) if rows.constant else ("", "")
    begin, end = added_ids(tokenizer)
    last = tokenizer.eos_token_id
    target_end = end if last in end else [*end, last]
    if encoder_decoder:
        return Form(tokenizer, template, True, begin, end, constant, begin, target_end)
    return Form(tokenizer, template, False, begin, [], constant, [], [last])


def plain_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of texts without what a tokenizer adds to a whole text."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def summary_ids(tokenizer: Any, summaries: list[str], encoder_decoder: bool = False) -> list[list[int]]:
    """Return each summary's own ids; after a prompt it begins with a space, if its tokenizer puts none there itself."""
    lead = "" if encoder_decoder or starts_with_space(tokenizer) else " "
    return plain_ids(tokenizer, [lead + summary.strip() for summary in summaries])


def starts_with_space(tokenizer: Any) -> bool:
    """Return whether the tokenizer gives every text a leading space by itself, as SentencePiece models do."""
    return tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, [SAMPLE])[0])[0].startswith("\u2581")


def added_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a whole text."""
    own, whole = plain_ids(tokenizer, [SAMPLE])[0], tokenizer(SAMPLE)["input_ids"]
    for at in range(len(whole) - len(own) + 1):
        if whole[at : at + len(own)] == own:
            return whole[:at], whole[at + len(own) :]
    return [], []

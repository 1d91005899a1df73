"""The form of an example: the fixed ids around a document and a summary, as base and family need them.

What a tokenizer adds by itself shows how its base was trained: a Llama text begins with <s>, a T5 text ends with </s>,
a BART text has both. A causal base continues the prompt, so a token that ends a text is not added to it.

A special token that is written out in data is text: it never becomes the token. In the config's own template it is
intended, and becomes the token.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from bakeoff.config.templates import DOCUMENT, prompt_template
from bakeoff.data.examples import Example
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line

# By whether the base is an encoder-decoder.
TEMPLATES = {False: "{{ document }}\nTL;DR:", True: "summarize: {{ document }}"}
SAMPLE = "text"
WHOLE = "Try: a whole model folder, or a base that was trained on such texts"
TRIED = 1000  # tokens of a vocabulary that may be a text


@dataclass(frozen=True)
class Parts:
    """An example as ids: the prompt before, of and after its document, and its target.

    `gaps` are spans of the target that are given and not trained, as turns between answers are.
    """

    head: list[int]
    document: list[int]
    tail: list[int]
    target: list[int]
    gaps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Form:
    """How an example becomes ids: `begin` template and document `end`, and `target_begin` summary `target_end`.

    `constant` are the template's texts before and after the document; if the template uses more columns, an example has
    its own (`around`). `parsed`: the template names special tokens.
    """

    tokenizer: Any
    template: str
    encoder_decoder: bool
    begin: list[int]
    end: list[int]
    constant: tuple[str, str]
    target_begin: list[int]
    target_end: list[int]
    parsed: bool = False

    def around(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Return the ids before and after the document in each example's prompt."""
        texts = [example.around or self.constant for example in examples]
        each = {text for pair in texts for text in pair if text}
        ids = dict(zip(each, plain_ids(self.tokenizer, list(each), self.parsed), strict=True)) if each else {}
        return [([*self.begin, *ids.get(before, ())], [*ids.get(after, ()), *self.end]) for before, after in texts]

    def parts(self, examples: Sequence[Example]) -> list[Parts]:
        """Return the examples as ids; template parts, document and target are tokenized apart."""
        documents = self.documents([example.document for example in examples])
        targets = self.targets([example.summary for example in examples])
        pairs = zip(self.around(examples), documents, targets, strict=True)
        return [Parts(head, document, tail, target) for (head, tail), document, target in pairs]

    def documents(self, texts: list[str]) -> list[list[int]]:
        """Return each document's own ids."""
        return plain_ids(self.tokenizer, texts)

    def targets(self, summaries: list[str]) -> list[list[int]]:
        """Return the complete target of each summary."""
        own = summary_ids(self.tokenizer, summaries, self.encoder_decoder)
        return [[*self.target_begin, *ids, *self.target_end] for ids in own]

    def texts(self, outputs: Iterable[Sequence[int]], indented: bool) -> list[str]:
        """Return generated ids as texts; white space at their beginning stays if targets are `indented`."""
        texts = self.tokenizer.batch_decode(outputs, skip_special_tokens=True)
        return [plain(text.removeprefix(self.lead), indented) for text in texts]

    @cached_property
    def lead(self) -> str:
        """What an output begins with that is no part of its text."""
        return lead(self.tokenizer, self.encoder_decoder)


def make_form(tokenizer: Any, template: str | None, encoder_decoder: bool) -> Form:
    """Return the form of a base's examples; without a template, with the usual one of its family."""
    template = template or TEMPLATES[encoder_decoder]
    rows = prompt_template(template)
    constant = rows.around({DOCUMENT: ""}) if rows.constant else ("", "")
    begin, end = added_ids(tokenizer)
    last = tokenizer.eos_token_id
    target_end = end if last in end else [*end, last]
    parsed = any(text in template for text in special_tokens(tokenizer).values())
    if encoder_decoder:
        return Form(tokenizer, template, True, begin, end, constant, begin, target_end, parsed)
    return Form(tokenizer, template, False, begin, [], constant, [], [last], parsed)


def plain(text: str, indented: bool) -> str:
    """Return a text, output or reference, as it is scored.

    White space is removed at its end and, unless targets are `indented`, at its beginning.
    """
    return text.rstrip() if indented else text.strip()


def plain_ids(tokenizer: Any, texts: list[str], parsed: bool = False) -> list[list[int]]:
    """Return the ids of texts without what a tokenizer adds to a complete text.

    Special tokens that are written out in the texts become those tokens only if they are to be `parsed`. Raises
    SetupError if the tokenizer refuses a text, as some tokenizers without an unknown token do.
    """
    options = {"return_attention_mask": False, "verbose": False, "split_special_tokens": not parsed}
    with one_line(f"{tokenizer.name_or_path}: its tokenizer cannot encode a text", WHOLE):
        ids = tokenizer(texts, add_special_tokens=False, **options)["input_ids"]
    return ids if parsed else spelt_out(tokenizer, ids)


def spelt_out(tokenizer: Any, rows: list[list[int]]) -> list[list[int]]:
    """Return rows of ids with special tokens spelt as characters: SentencePiece makes ordinary pieces of them."""
    special = {i: text for i, text in special_tokens(tokenizer).items() if i != tokenizer.unk_token_id}
    for row in rows:
        if not special.keys().isdisjoint(row):
            parts = (tokenizer.convert_tokens_to_ids([*special[i]]) if i in special else [i] for i in row)
            row[:] = [i for part in parts for i in part if i is not None]
    return rows


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that are not text, by id: ends, padding and so on."""
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def summary_ids(tokenizer: Any, summaries: list[str], encoder_decoder: bool = False) -> list[list[int]]:
    """Return each summary's own ids, without white space at its end; at its beginning white space is an indent."""
    before = lead(tokenizer, encoder_decoder)
    indent = lead_of_indent(tokenizer) if not before and any(s[:1] == " " for s in summaries) else before
    return plain_ids(tokenizer, [(indent if s[:1] == " " else before) + s.rstrip() for s in summaries])


def lead(tokenizer: Any, encoder_decoder: bool = False) -> str:
    """Return what a summary begins with: a space after a causal prompt, if the tokenizer does not add one."""
    return "" if encoder_decoder or starts_with_space(tokenizer) else " "


def lead_of_indent(tokenizer: Any) -> str:
    """Return what goes before a text that begins with spaces, so that decoding gives the same number of spaces.

    Some tokenizers that begin every text with a space add none to a text that begins with one.
    """
    text = sample(tokenizer)
    tried = {before: plain_ids(tokenizer, [f"{before}  {text}"]) for before in ("", " ")}
    return next((before for before, ids in tried.items() if tokenizer.decode(ids[0]) == f"  {text}"), "")


def starts_with_space(tokenizer: Any) -> bool:
    """Return whether the tokenizer adds a leading space to every text, as SentencePiece models do."""
    return tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, [sample(tokenizer)])[0])[0].startswith("\u2581")


def sample(tokenizer: Any) -> str:
    """Return a short text that has tokens; raise SetupError if no text in TRIED has any.

    A tokenizer of few words, or of one script, that has no unknown token makes no tokens of other texts, or refuses
    them.
    """
    special = special_tokens(tokenizer)
    own = (tokenizer.decode([i]) for i in range(min(len(tokenizer), TRIED)) if i not in special)
    for text in chain([SAMPLE], own):
        with suppress(SetupError):
            if plain_ids(tokenizer, [text])[0]:
                return text
    raise SetupError(f"{tokenizer.name_or_path}: its tokenizer gives no tokens for any text. {WHOLE}")


def added_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer adds before and after a complete text."""
    text = sample(tokenizer)
    own, whole = plain_ids(tokenizer, [text])[0], tokenizer(text)["input_ids"]
    for at in range(len(whole) - len(own) + 1):
        if whole[at : at + len(own)] == own:
            return whole[:at], whole[at + len(own) :]
    return [], []

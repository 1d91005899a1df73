"""Prompted baselines: the base with training examples, or with an instruction, before every document.

few-shot-K shows the same K examples, many-shot as many as the context takes, nearest-K those training examples whose
documents are most like the test document's (BM25). instruction shows a text that a search on validation loss has found.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy
from numpy.typing import NDArray

from bakeoff.config.names import INSTRUCTION, MANY_SHOT
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example, shortened
from bakeoff.data.forms import AnyForm
from bakeoff.data.prompt_format import Form, plain, plain_ids
from bakeoff.data.splitting import content_hashes
from bakeoff.data.token_file import lengths_of
from bakeoff.data.tokens import Tokens
from bakeoff.errors import BakeoffError
from bakeoff.scoring.words import words

Settings = dict[str, Any]
Rows = Sequence[Tokens]
FEW_SHOT, NEAREST = "few-shot-", "nearest-"
BLANK_LINE = "\n\n"
Around = tuple[list[int], list[int], list[int]]  # before, of and after a document in a prompt
KEPT_SHARE = 0.5  # a document that loses more than the rest of its tokens to the examples has no room ...
ROOMLESS_SHARE = 0.1  # ... and a baseline is not run where more than this share of the test documents have none


class NoRoomError(BakeoffError):
    """A prompted baseline cannot be run: the message says why."""


def shows_examples(name: str) -> bool:
    """Return whether a baseline is the base with training examples before the document."""
    return name == MANY_SHOT or name.startswith((FEW_SHOT, NEAREST))


def is_prompted(name: str) -> bool:
    """Return whether a baseline is the base with anything before the document."""
    return name == INSTRUCTION or shows_examples(name)


def shots_of(
    name: str, splits: Mapping[str, Sequence[Example]], tokens: Mapping[str, Rows], form: AnyForm,
    context: int | None, output_tokens: int,
) -> Settings:  # fmt: skip
    """Return the settings of a baseline that shows examples: their places and, if it is no blank line, the separator.

    The examples of nearest-K are other ones for each test document, so its settings only say by what they are found.
    Raises NoRoomError if the context has no room for them.
    """
    train, between = splits["train"], BLANK_LINE if isinstance(form, ChatForm) else separator(splits["train"])
    own: Settings = {} if between == BLANK_LINE else {"separator": between}
    costs = shot_costs(tokens["train"], form, between)
    if name.startswith(NEAREST):
        check_nearest(int(name.removeprefix(NEAREST)), costs, tokens["test"], form, context, output_tokens)
        return {"nearest": "bm25"} | own
    ordered = choose_shots(train, tokens["train"])
    if name == MANY_SHOT:
        room = free_room(longest(tokens["test"], form, output_tokens), context)
        places = ordered[: int(numpy.searchsorted(numpy.cumsum(costs[ordered]), room, side="right"))]
        if not places:
            raise NoRoomError(f"the context of {context} tokens is too short for an example and the longest document")
        return {"examples": places} | own
    places = enough(ordered, int(name.removeprefix(FEW_SHOT)))
    shown = around_shots(tokens, splits["test"], train, [places] * len(tokens["test"]), form, between)
    prompted_rows(tokens["test"], shown, form, context, output_tokens)
    return {"examples": places} | own


def choose_shots(examples: Sequence[Example], rows: Rows) -> list[int]:
    """Return the places of the shorter half of the training examples, those first whose contents hash lowest."""
    lengths = lengths_of(rows).totals
    short = numpy.flatnonzero(lengths <= numpy.median(lengths))
    return short[numpy.argsort(content_hashes(examples)[short], kind="stable")].tolist()


def enough(ordered: list[int], count: int) -> list[int]:
    """Return the first `count` places; raise NoRoomError if there are fewer."""
    if len(ordered) < count:
        raise NoRoomError(f"the shorter half of the training split has {len(ordered)} examples, not {count}")
    return ordered[:count]


def shot_costs(rows: Rows, form: AnyForm, between: str) -> NDArray[numpy.int64]:
    """Return how many tokens each training example takes in a prompt, at most, (examples,)."""
    after, line = plain_ids(form.tokenizer, [between, "\n"])
    return lengths_of(rows).totals.astype(numpy.int64) + len(after) + len(line)


def longest(rows: Rows, form: AnyForm, output_tokens: int) -> NDArray[numpy.int64]:
    """Return how many tokens each row's prompt takes, and after it its target or an output, (rows,)."""
    lengths = lengths_of(rows)
    after = 0 if form.encoder_decoder else numpy.maximum(lengths.targets, output_tokens)
    return lengths.prompts.astype(numpy.int64) + after


def free_room(taken: NDArray[numpy.int64], context: int | None) -> int:
    """Return how many tokens the context leaves beside every row; raise NoRoomError if it has no known end."""
    if context is None:
        raise NoRoomError("the base does not say how long its context is. Try: few-shot-8")
    return context - int(taken.max())


def check_nearest(
    count: int, costs: NDArray[numpy.int64], test: Rows, form: AnyForm, context: int | None, output_tokens: int
) -> None:
    """Raise NoRoomError if `count` examples of the usual length have no room beside a document of the usual length."""
    if len(costs) < count:
        raise NoRoomError(f"the training split has {len(costs)} examples, not {count}")
    usual, rest = int(numpy.median(costs)) * count, int(numpy.median(longest(test, form, output_tokens)))
    if context is not None and usual + rest > context:
        raise NoRoomError(
            f"the context of {context} tokens is too short: {count} examples of the usual length take {usual} of them, "
            f"and a document with its output {rest}"
        )


class Nearest:
    """Finds the training examples whose documents are most like a text, by BM25 (Robertson and Zaragoza 2009)."""

    def __init__(self, train: Iterable[Example]):
        import bm25s

        self.index = bm25s.BM25()
        self.index.index([words(example.source) or [""] for example in train], show_progress=False)

    def places(self, text: str, count: int) -> list[int]:
        """Return the places of the `count` nearest examples, the nearest first, the earlier of equals first."""
        known = [word for word in words(text) if word in self.index.vocab_dict]
        scores = self.index.get_scores(known) if known else numpy.zeros(self.index.scores["num_docs"])
        return numpy.argsort(-numpy.round(scores, 4), kind="stable")[:count].tolist()

    def fitting(
        self, count: int, costs: NDArray[numpy.int64], examples: Iterable[Example], rows: Rows, form: AnyForm,
        context: int | None, output_tokens: int,
    ) -> list[list[int]]:  # fmt: skip
        """Return the places of the nearest examples of each document, the nearest last, next to the document.

        Of the `count` nearest as many are kept as leave the document whole; `costs` are of the training examples.
        """
        found = []
        for example, length in zip(examples, longest(rows, form, output_tokens), strict=True):
            places = self.places(example.source, count)
            if context is not None:
                places = places[: int(numpy.searchsorted(numpy.cumsum(costs[places]), context - length, side="right"))]
            found.append(places[::-1])
        return found


def nearest_places(
    count: int, train: Sequence[Example], test: Iterable[Example], tokens: Mapping[str, Rows], form: AnyForm,
    between: str, context: int | None, output_tokens: int,
) -> list[list[int]]:  # fmt: skip
    """Return the places of the nearest examples of each test document, as `Nearest.fitting` does."""
    costs = shot_costs(tokens["train"], form, between)
    return Nearest(train).fitting(count, costs, test, tokens["test"], form, context, output_tokens)


def separator_of(settings: Mapping[str, Any]) -> str:
    """Return what stands between the examples of a baseline with these settings."""
    return str(settings.get("separator", BLANK_LINE))


def separator(train: Sequence[Example]) -> str:
    """Return the separator between few-shot examples, which also ends outputs.

    It is a blank line or, if targets contain blank lines, a line of signs.
    """
    tried = [BLANK_LINE, *(f"\n\n{'#' * count}\n\n" for count in range(3, 40))]
    for example in train:
        tried = [text for text in tried if text not in example.summary]
    return tried[0] if tried else BLANK_LINE


def around_shots(
    tokens: Mapping[str, Rows], test: Iterable[Example], train: Sequence[Example] | Mapping[int, Example],
    places: Sequence[Sequence[int]], form: AnyForm, between: str,
) -> Iterator[Around]:  # fmt: skip
    """Yield the ids before, of and after each test document in a prompt with the training examples at its `places`.

    They come in the same template, with `between` after each; by a chat template they are turns, for which the texts
    in `train` are needed. All of a conversation stands before a document that is empty.
    """
    before: Sequence[int] | None = None
    for example, row, chosen in zip(test, tokens["test"], places, strict=True):
        if isinstance(form, ChatForm):
            if chosen != before:
                shown, before = form.with_shots([train[i] for i in chosen]), chosen
            if example.turns:
                read = (one for one in shortened(example) if not row.cut or form.prompt(one) == row.prompt)
                yield shown.prompt(next(read)), [], []
            else:
                ((head, tail),) = shown.around([example])
                yield head, row.prompt[row.head : len(row.prompt) - row.tail], tail
            continue
        if chosen != before:
            prefix, before = shots_ids([tokens["train"][i] for i in chosen], form, between), chosen
        end = len(row.prompt) - row.tail
        head = [*form.begin, *prefix, *row.prompt[len(form.begin) : row.head]]
        yield head, row.prompt[row.head : end], row.prompt[end:]


def around_instruction(rows: Rows, examples: Sequence[Example], form: AnyForm, text: str) -> Iterator[Around]:
    """Yield the ids before, of and after each document in a prompt that begins with an instruction and a blank line."""
    shown = []
    for example in examples:
        before, after = example.around or form.constant
        shown.append(replace(example, around=(f"{text}{BLANK_LINE}{before}" if text else before, after)))
    for row, (head, tail) in zip(rows, form.around(shown), strict=True):
        yield head, row.prompt[row.head : len(row.prompt) - row.tail], tail


def prompted_rows(
    rows: Rows, around: Iterable[Around], form: AnyForm, context: int | None, output_tokens: int
) -> list[Tokens]:
    """Return the rows with other ids `around` their documents: with examples or an instruction before them.

    A document is cut further if the model's `context` of tokens leaves no room for it, its summary and an output.
    Raises NoRoomError if that takes away too much (KEPT_SHARE, ROOMLESS_SHARE).
    """
    made, without_room = [], 0
    for row, parts in zip(rows, around, strict=True):
        new, room = prompted_row(row, parts, form, context, output_tokens)
        made.append(new)
        without_room += room < KEPT_SHARE
        if room <= 0 or without_room > ROOMLESS_SHARE * len(rows):
            raise NoRoomError(
                f"the context of {context} tokens is too short: the examples take "
                f"{new.head - row.head}, which leaves too few for the documents"
            )
    return made


def prompted_row(
    row: Tokens, around: Around, form: AnyForm, context: int | None, output_tokens: int
) -> tuple[Tokens, float]:
    """Return a row with other ids around its document, and for what share of the document the context has room.

    The share is 1 if all of it is there, and for an empty document that leaves room for an output.
    """
    head, document, tail = around
    length = len(document)
    output = 0 if form.encoder_decoder else max(len(row.target), output_tokens)
    room = length if context is None else context - len(head) - len(tail) - output
    cut = min(length, max(0, length - room))
    prompt = [*head, *document[: length - cut], *tail]
    share = min(1.0, room / length) if length else float(room >= 0)
    return replace(row, prompt=prompt, cut=row.cut + cut, head=len(head), tail=len(tail)), share


def shots_ids(shots: Sequence[Tokens], form: Form, between: str = BLANK_LINE) -> list[int]:
    """Return the ids of the examples, one after the other, without the special tokens that begin or end a text."""
    after, line = plain_ids(form.tokenizer, [between, "\n"])
    over = line if form.encoder_decoder else []  # a causal template leads over to the summary by itself
    ids: list[int] = []
    for shot in shots:
        prompt = shot.prompt[len(form.begin) : len(shot.prompt) - len(form.end)]
        whole = shot.target[-len(form.target_end) :] == form.target_end  # one that was cut has no end
        summary = shot.target[len(form.target_begin) : len(shot.target) - whole * len(form.target_end)]
        ids += [*prompt, *over, *summary, *after]
    return ids


def cut_share(rows: Sequence[Tokens], whole: Sequence[Tokens]) -> float:
    """Return the share of few-shot rows whose document is shorter than in the rows that the entries see."""
    return sum(row.cut > one.cut for row, one in zip(rows, whole, strict=True)) / len(rows)


def first_answer(output: str, between: str = BLANK_LINE, indented: bool = False) -> str:
    """Return a few-shot output up to the separator, after which the base would begin another example."""
    return plain(plain(output, indented).lstrip("\n").partition(between)[0], indented)

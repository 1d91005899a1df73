"""Baselines: what every table compares its entries with.

They are the untouched base, the base with training examples before the document, the document's first sentences, the
best extract that a greedy choice finds, and the most frequent label. They are plain texts and token ids: this module
does not know models.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy

from bakeoff.config.config import Config
from bakeoff.config.names import MAJORITY
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.examples import Example, shortened
from bakeoff.data.forms import AnyForm
from bakeoff.data.overlap import of
from bakeoff.data.prompt_format import Form, plain, plain_ids
from bakeoff.data.splitting import content_hashes, take
from bakeoff.data.token_file import lengths_of
from bakeoff.data.tokens import Tokens
from bakeoff.errors import BakeoffError
from bakeoff.scoring.labels import label, labels_in
from bakeoff.scoring.rouge import sentences_at_marks, stemming
from bakeoff.scoring.sentences import joined, lead, sentences
from bakeoff.scoring.words import only_latin, words

Settings = dict[str, Any]
BASE = "base"
FEW_SHOT = "few-shot-"
LEAD = "lead-"
BLANK_LINE = "\n\n"
Around = tuple[list[int], list[int], list[int]]  # before, of and after a document in a prompt
KEPT_SHARE = 0.5  # a document that loses more than the rest of its tokens to the examples has no room ...
MOSTLY = 0.5  # a share of a reference's letters that rouge-score does not see, from which words are of any script
ROOMLESS_SHARE = 0.1  # ... and few-shot is not run where more than this share of the test documents have none


class NoRoomError(BakeoffError):
    """The few-shot baseline cannot be run: the message says why."""


def settle(
    config: Config, splits: Mapping[str, Sequence[Example]], tokens: Mapping[str, Sequence[Tokens]],
    form: AnyForm | None, context: int | None, output_tokens: int | None,
) -> tuple[dict[str, Settings], dict[str, str]]:  # fmt: skip
    """Return the settings of each baseline to run, and the reasons why the others are not run.

    The settings of few-shot are the places of its examples in the training split and, if it is not a blank line, the
    separator between them; they are empty without tokens. Those of majority are its label. The settings of an extract
    say if its sentences or words follow another rule than the plain one, which was once the only one.
    """
    train, extracts = splits["train"], extract_settings(splits["test"])
    run: dict[str, Settings] = {}
    not_run: dict[str, str] = {}
    for name in config.baselines:
        run[name] = {} if takes_model(name) else extracts[name == "oracle"]
        if name == MAJORITY:
            run[name] = {"label": labels_in([example.summary for example in train])[0]}
        if name.startswith(FEW_SHOT) and form is not None and output_tokens is not None:
            try:
                places = choose_shots(int(name.removeprefix(FEW_SHOT)), train, tokens["train"])
                between = BLANK_LINE if isinstance(form, ChatForm) else separator(train)
                shown = around_shots(tokens, splits["test"], partial(take, train, places), places, form, between)
                few_shot_rows(tokens["test"], shown, form, context, output_tokens)
                run[name] = {"examples": places} | ({} if between == BLANK_LINE else {"separator": between})
            except NoRoomError as error:
                not_run[name] = str(error)
                del run[name]
    return run, not_run


def extract_settings(test: Sequence[Example]) -> tuple[Settings, Settings]:
    """Return which rules lead-k and the oracle need for this test split; these are parts of their run ids."""
    lines: Settings = {}
    any_script: Settings = {}
    for example in test:
        if not lines and sentences(example.document) != sentences_at_marks(example.document):
            lines = {"sentences": "of any script, not at abbreviations"}
        if not any_script and only_latin(example.summary) > MOSTLY:
            any_script = {"words": "of any script"}
    return lines, lines | any_script


def takes_model(name: str) -> bool:
    """Return whether a baseline's outputs are a model's: the base's, with or without examples."""
    return name == BASE or name.startswith(FEW_SHOT)


def base_in(quantize: str) -> str:
    """Return the name of the untouched base in another storage than the protocol's."""
    return f"{BASE}-{quantize}"


def findings(run: Mapping[str, Settings], train: Sequence[Example]) -> list[str]:
    """Return what is to be said of baselines that will be run: which label majority writes."""
    if MAJORITY not in run:
        return []
    own = run[MAJORITY]["label"]
    alike = sum(label(example.summary) == label(own) for example in train)
    return [f"baselines: {MAJORITY} always writes '{own:.60}', the label of {of(alike, len(train))} training examples"]


def extract(name: str, examples: Sequence[Example], settings: Settings) -> list[str] | None:
    """Return what the baseline writes for each document, or None if the baseline needs a model."""
    if name == MAJORITY:
        return [settings["label"]] * len(examples)
    if name.startswith(LEAD):
        return [lead(e.document, int(name.removeprefix(LEAD))) for e in examples]
    return [oracle(e.document, e.summary) for e in examples] if name == "oracle" else None


def choose_shots(count: int, examples: Sequence[Example], rows: Sequence[Tokens]) -> list[int]:
    """Return the places of `count` training examples: of the shorter half, those whose contents hash lowest.

    Raises NoRoomError if there are fewer.
    """
    lengths = lengths_of(rows).totals
    short = numpy.flatnonzero(lengths <= numpy.median(lengths))
    if len(short) < count:
        raise NoRoomError(f"the shorter half of the training split has {len(short)} examples, not {count}")
    return short[numpy.argsort(content_hashes(examples)[short], kind="stable")[:count]].tolist()


def separator(train: Sequence[Example]) -> str:
    """Return the separator between few-shot examples, which also ends outputs.

    It is a blank line or, if targets contain blank lines, a line of signs.
    """
    tried = [BLANK_LINE, *(f"\n\n{'#' * count}\n\n" for count in range(3, 40))]
    for example in train:
        tried = [text for text in tried if text not in example.summary]
    return tried[0] if tried else BLANK_LINE


def around_shots(
    tokens: Mapping[str, Sequence[Tokens]], test: Iterable[Example], train: Callable[[], Sequence[Example]],
    places: Sequence[int], form: AnyForm, between: str,
) -> Iterator[Around]:  # fmt: skip
    """Yield the ids before, of and after each test document in a prompt with the training examples at `places`.

    They come in the same template, with `between` after each; by a chat template they are turns, for which their texts
    are needed: `train` returns them. All of a conversation stands before a document that is empty.
    """
    if isinstance(form, ChatForm):
        shown = replace(form, shots=tuple(train()))
        for example, row in zip(test, tokens["test"], strict=True):
            if example.turns:
                read = (one for one in shortened(example) if not row.cut or form.prompt(one) == row.prompt)
                yield shown.prompt(next(read)), [], []
            else:
                ((head, tail),) = shown.around([example])
                yield head, row.prompt[row.head : len(row.prompt) - row.tail], tail
        return
    prefix, begin = shots_ids([tokens["train"][i] for i in places], form, between), len(form.begin)
    for row in tokens["test"]:
        end = len(row.prompt) - row.tail
        yield [*form.begin, *prefix, *row.prompt[begin : row.head]], row.prompt[row.head : end], row.prompt[end:]


def few_shot_rows(
    rows: Sequence[Tokens], around: Iterable[Around], form: AnyForm, context: int | None, output_tokens: int,
) -> list[Tokens]:  # fmt: skip
    """Return the rows with other ids `around` their documents: with training examples before them.

    A document is cut further if the model's `context` of tokens leaves no room for it, its summary and an output.
    Raises NoRoomError if that takes away too much (KEPT_SHARE, ROOMLESS_SHARE).
    """
    made, without_room = [], 0
    for row, (head, document, tail) in zip(rows, around, strict=True):
        length = len(document)
        output = 0 if form.encoder_decoder else max(len(row.target), output_tokens)
        room = length if context is None else context - len(head) - len(tail) - output
        without_room += room < max(min(1, length), KEPT_SHARE * length)
        cut = max(0, length - room)
        prompt = [*head, *document[: length - cut], *tail]
        made.append(replace(row, prompt=prompt, cut=row.cut + cut, head=len(head), tail=len(tail)))
        if room < min(1, length) or without_room > ROOMLESS_SHARE * len(rows):
            raise NoRoomError(
                f"the context of {context} tokens is too short: the examples take {len(head) - row.head} of "
                "them, which leaves too few for the documents"
            )
    return made


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


def oracle(document: str, reference: str) -> str:
    """Return the extract that a greedy choice finds best: a ceiling for extraction, since it reads the reference.

    Sentence by sentence, it takes the one that raises the sum of ROUGE-1, ROUGE-2 and ROUGE-L F most (the earlier of
    equals), until none raises it (the procedure of Nallapati et al. 2017, section 3). Sentences keep the document's
    order; the text is empty if none shares a word with the reference. Words are those of rouge-score, or of any script
    if rouge-score sees little of the reference.
    """
    texts = sentences(document)
    words_of = words if only_latin(reference) > MOSTLY else _words
    wanted = Reference(words_of(reference))
    candidates = {i: w for i, text in enumerate(texts) if wanted.shares(w := words_of(text))}
    chosen: list[int] = []
    best = 0.0
    while True:
        step = None
        for i in candidates:
            if i not in chosen:
                score = wanted.score([w for j in sorted([*chosen, i]) for w in candidates[j]])
                if score > best:
                    best, step = score, i
        if step is None:
            return joined([texts[i] for i in chosen])
        chosen = sorted([*chosen, step])


class Reference:
    """A reference's words, counted once, against which many candidates are scored."""

    def __init__(self, words: list[str]):
        self.length = len(words)
        self.words, self.pairs = Counter(words), Counter(pairwise(words))
        self.places: dict[str, int] = {}  # of each word, as bits
        for place, word in enumerate(words):
            self.places[word] = self.places.get(word, 0) | 1 << place

    def shares(self, words: list[str]) -> bool:
        """Return whether any of the words is in the reference."""
        return any(word in self.places for word in words)

    def score(self, words: list[str]) -> float:
        """Return the sum of ROUGE-1, ROUGE-2 and ROUGE-L F of a candidate, 0 to 3."""
        return (
            _f(_overlap(self.words, Counter(words)), len(words), self.length)
            + _f(_overlap(self.pairs, Counter(pairwise(words))), len(words) - 1, self.length - 1)
            + _f(self.common_subsequence(words), len(words), self.length)
        )

    def common_subsequence(self, words: list[str]) -> int:
        """Return the length of the longest common subsequence; one row of the table is one number of bits.

        Hyyrö 2004, "Bit-parallel LCS-length computation revisited": a zero bit is a place where the length grows.
        """
        row = every = (1 << self.length) - 1
        for word in words:
            met = row & self.places.get(word, 0)
            row = (row + met) | (row - met)
        return self.length - (row & every).bit_count()


def _overlap(wanted: Counter[Any], found: Counter[Any]) -> int:
    return sum(min(count, wanted[gram]) for gram, count in found.items() if gram in wanted)


def _f(overlap: int, candidate: int, reference: int) -> float:
    return 2 * overlap / (candidate + reference) if overlap else 0.0


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return stemming()


@lru_cache(maxsize=100_000)
def _stems(word: str) -> tuple[str, ...]:
    return tuple(_tokenizer().tokenize(word))


def _words(text: str) -> list[str]:
    return [stem for word in text.split() for stem in _stems(word)]

"""Baselines: what every table compares its entries with.

They are the untouched base, the base with training examples or an instruction before the document (`prompted.py`), the
document's first sentences, the best extract that a greedy choice finds, and the most frequent label. They are plain
texts and token ids: this module does not know models.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from bakeoff.config.config import Config
from bakeoff.config.names import MAJORITY
from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm
from bakeoff.data.overlap import of
from bakeoff.data.tokens import Tokens
from bakeoff.methods.instructions import STARTS
from bakeoff.scoring.labels import label, labels_in
from bakeoff.scoring.prompted import INSTRUCTION, NoRoomError, Settings, is_prompted, shots_of, shows_examples
from bakeoff.scoring.rouge import sentences_at_marks, stemming
from bakeoff.scoring.sentences import joined, lead, sentences
from bakeoff.scoring.words import only_latin, words

BASE = "base"
LEAD = "lead-"
READINGS_OF_A_STEP = 3  # forwards once, and backwards, which is the work of two
MOSTLY = 0.5  # a share of a reference's letters that rouge-score does not see, from which words are of any script


def settle(
    config: Config, splits: Mapping[str, Sequence[Example]], tokens: Mapping[str, Sequence[Tokens]],
    form: AnyForm | None, context: int | None, output_tokens: int | None, trial_steps: int = 0,
) -> tuple[dict[str, Settings], dict[str, str]]:  # fmt: skip
    """Return the settings of each baseline to run, and the reasons why the others are not run.

    Those of a prompted baseline say which examples it shows, or how its instruction is searched (with as much work as
    the `trial_steps` of an entry); they are empty without tokens. Those of majority are its label. The settings of an
    extract say if its sentences or words follow another rule than the plain one, which was once the only one.
    """
    train, extracts = splits["train"], extract_settings(splits["test"])
    run: dict[str, Settings] = {}
    not_run: dict[str, str] = {}
    for name in config.baselines:
        try:
            if name == MAJORITY:
                run[name] = {"label": labels_in([example.summary for example in train])[0]}
            elif name == INSTRUCTION:
                run[name] = instruction_settings(config, len(splits["validation"]), trial_steps) if form else {}
            elif shows_examples(name):
                run[name] = {}
                if form is not None and output_tokens is not None:
                    run[name] = shots_of(name, splits, tokens, form, context, output_tokens)
            else:
                run[name] = {} if name == BASE else extracts[name == "oracle"]
        except NoRoomError as error:
            run.pop(name, None)
            not_run[name] = str(error)
    return run, not_run


def instruction_settings(config: Config, validation: int, trial_steps: int) -> Settings:
    """Return where a search for an instruction starts, and how many it tries; raise NoRoomError for conversations.

    A step of an entry's trials reads a batch forwards and backwards, which is the work of three readings; a candidate
    reads the validation split once.
    """
    if config.data.conversation:
        raise NoRoomError("conversations have turns of their own, so there is no place for an instruction")
    named = [f"Answer with one of: {', '.join(config.labels)}."] if config.labels else []
    tried = READINGS_OF_A_STEP * trial_steps * config.protocol.batch_size // validation
    return {"start": [*named, *(config.instructions or STARTS)], "tried": max(2, tried)}


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
    """Return whether a baseline's outputs are a model's: the base's, with or without something before the document."""
    return name == BASE or is_prompted(name)


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

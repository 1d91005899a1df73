"""Problems of a bakeoff's examples, one line each, found before anything runs. Keeps no text in memory."""

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy
from numpy.typing import NDArray

from bakeoff.data.examples import Example
from bakeoff.data.languages import OTHER, language_of
from bakeoff.data.overlap import of
from bakeoff.data.splitting import content_hashes
from bakeoff.store.run_folder import SPLITS

GUESSED = 2000  # documents of a split whose language is guessed, evenly spaced
ERRORS = 3  # how many standard errors a difference must have
ENOUGH = 20  # rows for a mean to say anything
RATIO = 1.5  # of mean lengths
SHARE = 0.1  # of a language


class Look:
    """What one pass over a split's examples shows. `documents` and `summaries` (examples,) are logs of lengths."""

    def __init__(self, examples: Sequence[Example]):
        self.rows = len(examples)
        documents, summaries, ids = array("f"), array("f"), array("q")
        self.copied = self.longer = 0
        languages: Counter[str] = Counter()
        every = max(1, self.rows // GUESSED)
        for i, example in enumerate(examples):
            document, summary = example.document.strip(), example.summary.strip()
            documents.append(math.log(len(document)))
            summaries.append(math.log(len(summary)))
            ids.append(hash(example.id))
            self.copied += document == summary
            self.longer += len(summary) > len(document) and not example.turns  # answers to short questions are usual
            if i % every == 0:
                languages[language_of(document)] += 1
        self.repeated = self.rows - len(numpy.unique(content_hashes(examples)))
        self.one_id = self.rows - len(numpy.unique(ids))
        self.lengths = {"documents": numpy.array(documents), "summaries": numpy.array(summaries)}
        self.languages, self.guessed = languages, sum(languages.values())


def look_through(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Return findings about each split's rows, then those about how validation and test differ from train."""
    looks = {split: Look(splits[split]) for split in SPLITS}
    lines = [line for split, look in looks.items() for line in of_rows(split, look)]
    for split in ("validation", "test"):
        lines += shifts(split, looks[split], looks["train"])
    return lines


def of_rows(split: str, look: Look) -> list[str]:
    """Return findings about a split's rows."""
    where, rows, lines = f"data.{split}", look.rows, []
    if look.repeated:
        lines.append(f"{where}: {of(look.repeated, rows)} rows repeat the document and the summary of another row")
    if look.one_id:
        lines.append(
            f"{where}: {of(look.one_id, rows)} rows have the id of another row. Set data.id to a column without "
            f"repeated values"
        )
    if look.copied:
        lines.append(f"{where}: {of(look.copied, rows)} rows have the whole document as their summary")
    if look.longer > 0.01 * rows:
        lines.append(f"{where}: {of(look.longer, rows)} targets are longer than their documents, in characters")
    return lines


def shifts(split: str, look: Look, train: Look) -> list[str]:
    """Return findings about a split whose lengths or languages differ from those of train."""
    lines = []
    for what in look.lengths:
        ratio, certain = length_ratio(look.lengths[what], train.lengths[what])
        if certain and max(ratio, 1 / ratio) >= RATIO:
            means = [f"{math.exp(lengths[what].mean()):,.0f}" for lengths in (look.lengths, train.lengths)]
            lines.append(
                f"data.{split}: {what} are {ratio:.2g} times as long as in train (geometric means of "
                f"{' and '.join(means)} characters)"
            )
    for language in sorted({*look.languages, *train.languages} - {OTHER}):
        share, usual = look.languages[language] / look.guessed, train.languages[language] / train.guessed
        pooled = (look.languages[language] + train.languages[language]) / (look.guessed + train.guessed)
        error = math.sqrt(pooled * (1 - pooled) * (1 / look.guessed + 1 / train.guessed))
        if abs(share - usual) > max(SHARE, ERRORS * error):
            lines.append(f"data.{split}: {share:.0%} of documents seem to be in {language}; in train it is {usual:.0%}")
    return lines


def few_groups(test: Sequence[Example], column: str) -> list[str]:
    """Return a finding if the test split has too few groups to resample."""
    groups = len({example.group for example in test})
    if groups >= ENOUGH:
        return []
    return [f"data.test: {groups} groups by '{column}': few for confidence intervals, which are over groups"]


def length_ratio(logs: NDArray[numpy.float32], others: NDArray[numpy.float32]) -> tuple[float, bool]:
    """Return how many times longer texts are than others (geometric means), and whether that is not chance."""
    if min(len(logs), len(others)) < ENOUGH:
        return 1.0, False
    difference = float(logs.mean() - others.mean())
    error = math.sqrt(logs.var(ddof=1) / len(logs) + others.var(ddof=1) / len(others))
    return math.exp(difference), abs(difference) > ERRORS * error

"""What is tasted: pairs of outputs without names, in random order and place; every vote is on the disk at once."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

from bakeoff.analysis.tasting import paired_runs
from bakeoff.errors import SetupError, did_you_mean
from bakeoff.results import load_results
from bakeoff.store.checksums import digest
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder
from bakeoff.store.votes import Choice, Vote, append, outputs_hash, read_votes

PAIRS = 40  # to be tasted, unless the user says otherwise
SAME = "the two outputs are equal, so nobody was asked"


@dataclass(frozen=True)
class Item:
    """One comparison: a test example and two entries' outputs with the same seed."""

    place: int
    first: str
    second: str
    runs: tuple[str, str]
    document: str
    texts: tuple[str, str]

    @property
    def differs(self) -> bool:
        """Whether the two outputs differ: else nobody is asked."""
        return self.texts[0] != self.texts[1]

    @property
    def outputs(self) -> str:
        """The hash that binds a vote to these outputs."""
        return outputs_hash(self.document, *self.texts)


class Tasting:
    """The comparisons of a bakeoff that people are shown, the same ones for every taster."""

    def __init__(self, path: str | Path, entries: Sequence[str] = (), pairs: int = PAIRS):
        self.folder = Folder(path)
        document = load_results(path).document
        names = chosen(self.folder, document, entries)
        self.items = items(self.folder, document, names)[:pairs]
        self.digest = digest(self.folder.plan_file)
        self.votes = {(vote.taster, vote.outputs, vote.place): vote for vote in read_votes(self.folder.votes_file)}

    @property
    def asked(self) -> list[Item]:
        """The comparisons on which people are asked: those of two outputs that differ."""
        return [item for item in self.items if item.differs]

    def next(self, taster: str) -> int | None:
        """Return the number of the next comparison of a taster, None if there is none.

        First come those on which there is no vote yet, so that several tasters share the work. Where both outputs are
        equal, nobody is asked: that is a tie.
        """
        counts = Counter((outputs, place) for _, outputs, place in self.votes)
        left = [n for n, item in enumerate(self.items) if (taster, item.outputs, item.place) not in self.votes]
        for number in sorted(left, key=lambda n: counts[self.items[n].outputs, self.items[n].place]):
            item = self.items[number]
            if item.differs:
                return number
            if not counts[item.outputs, item.place]:
                self.vote(taster, number, "tie", SAME)
        return None

    def done(self, taster: str) -> int:
        """Return on how many of the comparisons in `asked` a taster has voted."""
        return sum((taster, item.outputs, item.place) in self.votes for item in self.asked)

    def left(self, taster: str, number: int) -> int:
        """Return which output, 0 or 1, a taster sees on the left: random, and the same when it is shown again."""
        return number_of(taster, self.items[number].outputs) % 2

    def vote(self, taster: str, number: int, choice: Choice, note: str = "") -> None:
        """Keep a vote; a later one of the same taster on the same comparison counts instead.

        Raises SetupError if the bakeoff's plan has changed since the tasting began.
        """
        if digest(self.folder.plan_file) != self.digest:
            raise SetupError(f"{self.folder.path}: the bakeoff has changed. Try: bakeoff taste again")
        item = self.items[number]
        vote = Vote(
            first=item.first, second=item.second, first_run=item.runs[0], second_run=item.runs[1], place=item.place,
            outputs=item.outputs, choice=choice, left=("first", "second")[self.left(taster, number)], taster=taster,
            note=note, date=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        append(self.folder, self.folder.votes_file, vote)
        self.votes[taster, item.outputs, item.place] = vote


def chosen(folder: Folder, document: ResultsDocument, entries: Sequence[str]) -> list[str]:
    """Return the entries that are compared: those named, or the best one and the one that comes nearest to it."""
    rows, verdict = document.rows, document.verdict
    for name in entries:
        if name not in rows:
            raise SetupError(f"{folder.path}: no entry '{name}'.{did_you_mean(name, rows)}")
        if not rows[name].seeds:
            raise SetupError(f"{folder.path}: '{name}' has no finished run. Try: bakeoff run again")
    if len(set(entries)) == 1:
        raise SetupError(f"{folder.path}: one entry has nothing to be compared with. Try: --entry twice")
    if entries:
        return list(dict.fromkeys(entries))
    mine = [pair for pair in verdict.pairs if pair.first == verdict.best]
    if not mine:
        raise SetupError(f"{folder.path}: needs two finished entries. Try: --entry NAME --entry base")
    return [mine[0].first, mine[0].second]


def items(folder: Folder, document: ResultsDocument, names: Sequence[str]) -> list[Item]:
    """Return all comparisons of these entries, in an order that is random and the same in every session.

    Every document comes once for each pair of entries, with one seed at random: rows of the same document are not
    independent, and neither are seeds.
    """
    documents = [row.document for row in folder.examples("test")]
    first_of = {text: place for place, text in reversed(list(enumerate(documents)))}
    plan, texts = folder.plan(), dict[str, list[str]]()
    for name in names:
        for run in document.rows[name].runs:
            record = folder.result(run, plan)
            if record and record.status == "done":
                folder.run(run).check()
                texts[run] = [row.output for row in folder.run(run).predictions()]
    found = []
    for first, second in combinations(names, 2):
        runs = paired_runs(*([run for run in document.rows[name].runs if run in texts] for name in (first, second)))
        for place in first_of.values():
            one, other = runs[number_of(folder.plan().data_fingerprint, first, second, place) % len(runs)]
            item = Item(place, first, second, (one, other), documents[place], (texts[one][place], texts[other][place]))
            found.append(item)
    return sorted(found, key=lambda item: number_of(item.outputs, item.place, *item.runs))


def number_of(*parts: object) -> int:
    """Return a number that looks random, the same for the same parts."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8])

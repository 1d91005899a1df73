"""Votes of people and a judge model, joined: which entry's outputs they prefer, and how far that can be trusted."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from bakeoff.analysis.level import LEVEL
from bakeoff.analysis.multiplicity import holm
from bakeoff.analysis.two_phase import JOINED, NetWins, from_judge, from_people, labels_needed
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.results_document import Preference, ResultsRow
from bakeoff.store.run_folder import Folder
from bakeoff.store.votes import (
    NOT_ASKED,
    WORTH,
    Choice,
    Judgement,
    PairRow,
    Vote,
    outputs_hash,
    read_judgements,
    read_votes,
)

UNSEEN = "the judge has not seen all documents with votes, so it is left out here"
FEW = "a judge is joined from {joined} documents with votes on, so it is left out here"
Pair = tuple[str, str]
Place = tuple[int, str, str]  # of a test example, and the two runs


@dataclass
class Said:
    """What was said about one pair of entries; `stale` counts lines about outputs that have changed since."""

    votes: dict[tuple[Place, str], Vote] = field(default_factory=dict)  # the last one of each taster on each place
    judgements: dict[tuple[Place, str], Judgement] = field(default_factory=dict)  # of each order
    stale: Counter[str] = field(default_factory=Counter)
    judges: list[Judgement] = field(default_factory=list)


def preferences(
    folder: Folder, plan: PlanDocument, rows: Mapping[str, ResultsRow], clusters: Sequence[str]
) -> list[Preference]:
    """Return what people and the judge prefer, of every pair of entries that they were asked about."""
    lines: list[PairRow] = [*read_votes(folder.votes_file), *read_judgements(folder.judge_file)]
    if not lines:
        return []
    now = Outputs(folder, plan, rows)
    said: dict[Pair, Said] = defaultdict(Said)
    for line in lines:
        pair = (line.first, line.second)
        mirrored = pair[::-1] in said
        take(said[pair[::-1] if mirrored else pair], turned(line) if mirrored else line, now.holds(line))
    found = [preference(pair, of, clusters, now.seeds(pair)) for pair, of in said.items()]
    adjusted = holm([1.0 if row.p is None else row.p for row in found]) if found else []
    return [
        row if row.p is None else row.model_copy(update={"p_adjusted": p, "different": p < 1 - LEVEL})
        for row, p in zip(found, adjusted, strict=True)
    ]


class Outputs:
    """The outputs that there are now, by run; read when they are first asked for."""

    def __init__(self, folder: Folder, plan: PlanDocument, rows: Mapping[str, ResultsRow]):
        self.folder, self.plan, self.rows = folder, plan, rows
        self.documents = [row.document for row in folder.examples("test")]
        self.texts: dict[str, list[str]] = {}
        self.entry_of = {run: name for name, row in rows.items() for run in row.runs}

    def of(self, run: str) -> list[str]:
        """Return a run's outputs in test order; none if it is not of this bakeoff, or not done as planned."""
        if run not in self.texts:
            known = run in self.entry_of
            record = self.folder.result(run, self.plan) if known else None
            done = record is not None and record.status == "done"
            self.texts[run] = [row.output for row in self.folder.run(run).predictions()] if done else []
        return self.texts[run]

    def holds(self, line: PairRow) -> bool:
        """Return whether a line is about outputs that are there now."""
        if (self.entry_of.get(line.first_run), self.entry_of.get(line.second_run)) != (line.first, line.second):
            return False
        one, other = self.of(line.first_run), self.of(line.second_run)
        if line.place >= min(len(one), len(other), len(self.documents)):
            return False
        return line.outputs == outputs_hash(self.documents[line.place], one[line.place], other[line.place])

    def seeds(self, pair: Pair) -> dict[tuple[str, str], int]:
        """Return the number of each seed that both entries of a pair have, by their two runs."""
        known = [self.rows[name].runs if name in self.rows else [] for name in pair]
        ones, others = ([run for run in runs if self.of(run)] for runs in known)
        return {both: number for number, both in enumerate(paired_runs(ones, others))}


def paired_runs(ones: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Return the two runs of each seed that both have; a baseline has one run, which goes with every seed."""
    if len(ones) == 1 or len(others) == 1:
        return [(one, other) for one in ones for other in others]
    return list(zip(ones, others, strict=False))


def take(said: Said, line: PairRow, holds: bool) -> None:
    """Count a line if it is about outputs that are there now."""
    if not holds:
        said.stale["votes" if isinstance(line, Vote) else "judgements"] += 1
        return
    place = (line.place, line.first_run, line.second_run)
    if isinstance(line, Vote):
        said.votes[place, line.taster] = line
    elif isinstance(line, Judgement):
        said.judgements[place, line.left] = line
        said.judges.append(line)


def turned(line: Any) -> Any:
    """Return a line about the same two outputs in the other order, for example of a bakeoff with another ranking."""
    other = {"first": "second", "second": "first"}
    return line.model_copy(
        update={
            "first": line.second, "second": line.first, "first_run": line.second_run, "second_run": line.first_run,
            "left": other[line.left], "choice": other.get(line.choice, line.choice),
        }
    )  # fmt: skip


def preference(pair: Pair, said: Said, clusters: Sequence[str], seeds: Mapping[tuple[str, str], int]) -> Preference:
    """Return one pair's preference."""
    latest = said.judges[-1].judge if said.judges else None
    judged = by_judge([row for row in said.judgements.values() if row.judge == latest], clusters, seeds)
    labels, seed_of = by_people(list(said.votes.values()), clusters, seeds)
    alone = from_judge(judged.table) if judged.numbers else None
    of_judge = [judged.value(name, seed_of[name]) for name in labels]
    people = numpy.array(list(labels.values()))
    if len(labels) >= JOINED and alone and None not in of_judge:
        found, by = from_people(people, numpy.array(of_judge, dtype=float), judged.table), "people and judge"
    elif labels:
        found, by = from_people(people), "people"
    else:
        found, by = alone or NetWins(0.0, None, None, None), "judge" if said.judges else "people"
    return row_of(pair, said, by, found, alone, labels, judged, of_judge, len(seeds))


@dataclass(frozen=True)
class Judged:
    """A judge's net wins, (documents, seeds), with the row of each document and the column of each seed.

    `flips` is the share of comparisons whose winner changes with the order, of those that the judge was asked about;
    `unanswered` counts answers without one.
    """

    numbers: dict[str, int]
    columns: dict[int, int]
    table: Any
    choices: list[Choice]
    flips: float | None
    unanswered: int

    def value(self, name: str, seed: int) -> float | None:
        """Return the net wins on one document with one seed; None if it was not judged."""
        known = name in self.numbers and seed in self.columns
        return float(self.table[self.numbers[name], self.columns[seed]]) if known else None


def by_judge(rows: Sequence[Judgement], clusters: Sequence[str], seeds: Mapping[tuple[str, str], int]) -> Judged:
    """Return the judge's labels of documents that it has judged in both orders with every seed that it was asked of.

    An answer that names no winner counts as a tie.
    """
    orders: dict[tuple[str, int, int], dict[str, Judgement]] = defaultdict(dict)
    for row in rows:
        seed = seeds.get((row.first_run, row.second_run))
        if seed is not None:
            orders[clusters[row.place], seed, row.place][row.left] = row
    whole = {key: both for key, both in orders.items() if len(both) == 2}
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    changed, missing, answered = 0, 0, 0
    for (name, seed, _), both in whole.items():
        values = [WORTH[row.choice or "tie"] for row in both.values()]
        cells[name, seed].append(sum(values) / 2)
        changed += values[0] != values[1]
        answered += any(row.answer != NOT_ASKED for row in both.values())
        missing += sum(row.choice is None for row in both.values())
    asked = sorted({seed for _, seed in cells})
    names = [n for n in dict.fromkeys(name for name, _ in cells) if all((n, seed) in cells for seed in asked)]
    table = numpy.array([[numpy.mean(cells[name, seed]) for seed in asked] for name in names])
    numbers, columns = ({key: i for i, key in enumerate(keys)} for keys in (names, asked))
    choices = [row.choice or "tie" for both in whole.values() for row in both.values()]
    return Judged(numbers, columns, table, choices, changed / answered if answered else None, missing)  # type: ignore[arg-type]


def by_people(
    votes: Sequence[Vote], clusters: Sequence[str], seeds: Mapping[tuple[str, str], int]
) -> tuple[dict[str, float], dict[str, int]]:
    """Return the mean vote of each document, and the seed whose outputs were shown first of it."""
    found: dict[str, list[float]] = defaultdict(list)
    seed_of: dict[str, int] = {}
    for vote in votes:
        seed = seeds.get((vote.first_run, vote.second_run))
        if seed is not None:
            found[clusters[vote.place]].append(WORTH[vote.choice])
            seed_of.setdefault(clusters[vote.place], seed)
    return {name: float(numpy.mean(values)) for name, values in found.items()}, seed_of


def row_of(
    pair: Pair, said: Said, by: Any, found: NetWins, alone: NetWins | None, labels: Mapping[str, float],
    judged: Judged, of_judge: Sequence[float | None], seeds: int,
) -> Preference:  # fmt: skip
    """Return the row of one pair for results.json."""
    choices = [vote.choice for vote in said.votes.values()] or judged.choices
    counts: Counter[str] = Counter(choices)
    share = {choice: counts[choice] / max(1, len(choices)) for choice in WORTH}
    named = zip(labels.values(), of_judge, strict=True)
    clear = [(person > 0) == (judge > 0) for person, judge in named if person and judge]
    mine = of_latest_judge(said)
    last = ([row for row in mine if row.answer != NOT_ASKED] or mine)[-1] if mine else None
    return Preference(
        first=pair[0], second=pair[1], by=by, net=found.value, low=found.low, high=found.high, p=found.p,
        p_adjusted=None, different=False, wins=share["first"], ties=share["tie"], losses=share["second"],
        both_bad=share["both bad"], labels=len(labels), votes=len(said.votes),
        tasters=len({vote.taster for vote in said.votes.values()}), judged=len(judged.numbers), seeds=seeds,
        needed=labels_needed(found, len(labels)) if labels else None, weight=found.weight,
        correlation=found.correlation, agreement=sum(clear) / len(clear) if clear else None, flips=judged.flips,
        unanswered=judged.unanswered, judge=(last.model or last.asked_model) if last else None,
        judge_net=alone.value if alone else None,
        judge_tokens=sum(row.prompt_tokens + row.answer_tokens for row in mine),
        notes=[*notes(said), *left_out(labels, by == "people" and bool(judged.numbers))],
    )  # fmt: skip


def of_latest_judge(said: Said) -> list[Judgement]:
    """Return all judgements of the judge that was asked last."""
    return [row for row in said.judges if row.judge == said.judges[-1].judge]


def left_out(labels: Mapping[str, float], judged_too: bool) -> list[str]:
    """Return why a judge's labels were not joined with people's, if there are some."""
    return [FEW.format(joined=JOINED) if len(labels) < JOINED else UNSEEN] if judged_too else []


def notes(said: Said) -> list[str]:
    """Return what a reader must know: lines that no longer count, and a judge that has changed."""
    lines = [
        f"{count:,} {what} are about outputs that have changed since, and do not count"
        for what, count in said.stale.items()
    ]
    if said.judges:
        mine = of_latest_judge(said)
        versions = {(row.model, row.fingerprint) for row in mine if row.answer != NOT_ASKED}
        if len(versions) > 1:
            shown = ", ".join(sorted({" ".join(filter(None, version)) or "unnamed" for version in versions}))
            lines.append(f"the judge changed its version while it was asked ({shown})")
        if len(mine) < len(said.judges):
            lines.append(f"{len(said.judges) - len(mine):,} judgements of an earlier judge, or prompt, do not count")
    return lines

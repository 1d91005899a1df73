"""What a judge is asked: pairs of outputs in both orders. What is answered is kept at once, and never asked again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Literal

from bakeoff.analysis.tasting import Outputs, paired_runs
from bakeoff.config.machine import JudgeConfig
from bakeoff.errors import SetupError, did_you_mean
from bakeoff.judging.client import SYSTEM, USER, Answer, Judge
from bakeoff.store.results_document import ResultsDocument
from bakeoff.store.run_folder import Folder
from bakeoff.store.votes import NOT_ASKED, Choice, Judgement, append, outputs_hash, read_judgements, read_votes

Side = Literal["first", "second"]
END_SECONDS = 10.0  # that open requests still have after an interrupt or an error
SIDES: tuple[Side, Side] = ("first", "second")


@dataclass(frozen=True)
class Question:
    """Two outputs for one document, with one of them on the left."""

    first: str
    second: str
    runs: tuple[str, str]
    place: int
    document: str
    texts: tuple[str, str]
    left: Side

    @property
    def outputs(self) -> str:
        """The hash that binds an answer to these outputs."""
        return outputs_hash(self.document, *self.texts)

    @property
    def in_order(self) -> tuple[str, str]:
        """The outputs as the judge sees them."""
        return self.texts if self.left == "first" else (self.texts[1], self.texts[0])


@dataclass
class Totals:
    """What a judging has cost so far."""

    asked: int = 0
    unanswered: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    price: float | None = None

    @property
    def in_money(self) -> str:
        """What it has cost, in words; empty if the config has no prices."""
        return "" if self.price is None else f"; {self.price:,.4g} by the prices in `judge`"


def identity(config: JudgeConfig) -> str:
    """Return a hash of which model is asked what: answers of another one do not count together with these."""
    parts = [config.base_url, config.model, config.criteria, config.answer_tokens, SYSTEM, USER]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def judged_pairs(
    folder: Folder, document: ResultsDocument, entries: Sequence[str], share: float = 0.0
) -> list[tuple[str, str]]:
    """Return which entries are compared: the best of those named, or of all, with each other one.

    Of the pairs without it, a `share` is compared, too, always the same ones: their names' hash chooses them.
    """
    rows = document.rows
    for name in entries:
        if name not in rows:
            raise SetupError(f"{folder.path}: no entry '{name}'.{did_you_mean(name, rows)}")
    names = list(dict.fromkeys(entries)) or [name for name, row in document.entries.items() if row.status == "done"]
    unfinished = [name for name in names if not rows[name].seeds]
    if unfinished:
        raise SetupError(f"{folder.path}: '{unfinished[0]}' has no finished run. Try: bakeoff run again")
    if len(names) < 2:
        raise SetupError(f"{folder.path}: needs two finished entries. Try: --entry NAME --entry base")
    best = document.verdict.best if document.verdict.best in names else names[0]
    pairs = [*combinations([str(best), *(name for name in names if name != best)], 2)]
    others = sorted((pair for pair in pairs if pair[0] != best), key=lambda pair: by_hash(" ".join(sorted(pair))))
    chosen = others[: round(share * len(others))]
    return [pair for pair in pairs if pair[0] == best or pair in chosen]


def by_hash(text: str) -> bytes:
    """Return what puts texts into an order that is random, and the same in every session."""
    return hashlib.sha256(text.encode()).digest()


def questions(
    folder: Folder, document: ResultsDocument, pairs: Sequence[tuple[str, str]], config: JudgeConfig
) -> Iterator[Question]:
    """Yield every question: each pair's outputs with each seed, both orders; equal outputs are not asked about.

    Documents come in an order that is random and the same in every session, those with votes first, and with all seeds
    before the next one: a judging that ends early has judged documents at random, and those that people know.
    """
    outputs = Outputs(folder, folder.plan(), document.rows)
    drawn = [by_hash(text) for text in outputs.documents]
    votes = [({vote.first, vote.second}, vote.place) for vote in read_votes(folder.votes_file)]
    for first, second in pairs:
        voted = {drawn[place] for names, place in votes if names == {first, second} and place < len(drawn)}
        places = sorted(range(len(drawn)), key=lambda place: (drawn[place] not in voted, drawn[place]))
        ones, others = ([run for run in document.rows[name].runs if outputs.of(run)] for name in (first, second))
        for place in places[: config.documents]:
            for runs in paired_runs(ones, others)[: config.seeds]:
                one, other = (outputs.of(run) for run in runs)
                for left in SIDES:
                    yield Question(
                        first, second, runs, place, outputs.documents[place], (one[place], other[place]), left
                    )


def judge(
    folder: Folder, asked: Sequence[Question], config: JudgeConfig, said: Callable[[Totals], None] = lambda _: None
) -> Totals:
    """Ask what has not been answered yet; return what it has cost. An interrupt, or an error, loses no answer."""
    who, totals = identity(config), Totals()
    known = {(row.judge, row.outputs, row.place, row.left) for row in read_judgements(folder.judge_file)}
    waiting = [q for q in asked if (who, q.outputs, q.place, q.left) not in known]
    for question in (q for q in waiting if q.texts[0] == q.texts[1]):
        keep(folder, question, who, config, Answer("tie", NOT_ASKED, "", "", 0, 0, 0.0))
    ahead = iter([q for q in waiting if q.texts[0] != q.texts[1]])
    connection = Judge(config)
    pool = ThreadPoolExecutor(config.parallel, thread_name_prefix="judge")
    running: dict[Future[Answer], Question] = {}
    try:
        while True:
            for question in ahead:
                running[pool.submit(connection.ask, question.document, *question.in_order)] = question
                if len(running) >= config.parallel:
                    break
            if not running:
                return totals
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                question = running.pop(future)
                answer = future.result()
                keep(folder, question, who, config, answer)
                totals.asked += 1
                totals.unanswered += answer.choice is None
                totals.prompt_tokens += answer.prompt_tokens
                totals.answer_tokens += answer.answer_tokens
                totals.price = price_of(totals, config)
                said(totals)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for future in wait(
            [f for f in running if not f.cancelled()], timeout=END_SECONDS
        ).done:  # what was paid for is kept
            if future.exception() is None:
                keep(folder, running[future], who, config, future.result())
        connection.close()


def price_of(totals: Totals, config: JudgeConfig) -> float | None:
    """Return what tokens have cost; None if a price is not known."""
    if config.input_price is None or config.output_price is None:
        return None
    return (totals.prompt_tokens * config.input_price + totals.answer_tokens * config.output_price) / 1e6


def keep(folder: Folder, question: Question, who: str, config: JudgeConfig, answer: Answer) -> None:
    """Write one answer to the disk."""
    swapped: dict[Choice | None, Choice] = {"first": "second", "second": "first"}
    choice = answer.choice if question.left == "first" else swapped.get(answer.choice, answer.choice)
    row = Judgement(
        first=question.first, second=question.second, first_run=question.runs[0], second_run=question.runs[1],
        place=question.place, outputs=question.outputs, judge=who, asked_model=config.model,
        choice=choice, left=question.left, model=answer.model, fingerprint=answer.fingerprint, answer=answer.text,
        prompt_tokens=answer.prompt_tokens, answer_tokens=answer.answer_tokens, seconds=answer.seconds,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    append(folder, folder.judge_file, row)

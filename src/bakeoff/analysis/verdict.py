"""The verdict: a few plain sentences, none of which says more than the statistics support."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from bakeoff.analysis.pairs import Estimates, compare
from bakeoff.analysis.statistics import coverage
from bakeoff.analysis.twins import memory_saved, storage, twins
from bakeoff.scoring.baselines import BASE
from bakeoff.store.results_document import Difference, Pair, ResultsRow, Verdict, interval_of

COSTS = {"memory": "peak_bytes", "size": "adapter_bytes", "time": "train_seconds"}
PREFERENCES = ("quality", *COSTS)
COVERED = {
    "documents and seeds": "and seeds",
    "documents and two seeds": "and two seeds (two are too few to know their spread; use three)",
    "documents and some seeds": "and seeds (an entry with one seed is assumed to vary as the others do)",
    "documents": "(one seed per entry, so not over seeds)",
}
CEILING = "oracle"  # a baseline that reads the reference: no entry is asked to beat it
Rows = Mapping[str, ResultsRow]


@dataclass(frozen=True)
class Yardstick:
    """The score that entries are ranked by; a `bounded` one, from 0 to 1, is shown in points (hundredths).

    `unit` is what the bootstrap resamples: documents, or groups of them.
    """

    name: str = "rougeL"
    heading: str = "ROUGE-L"
    bounded: bool = True
    unit: str = "documents"

    @property
    def metric(self) -> str:
        """The name of the score in the records."""
        return f"test/{self.name}"

    def shown(self, value: float) -> str:
        """Return a score or difference as a verdict shows it."""
        return f"{round(100 * value, 1) + 0.0:.1f}" if self.bounded else f"{value + 0.0:.3g}"

    def points(self, value: float) -> str:
        """Return a difference with its unit."""
        return f"{self.shown(value)} points" if self.bounded else self.shown(value)

    def in_brackets(self, span: tuple[float, float] | None) -> str:
        """Return a 95 % interval in brackets, to follow its value; empty if there is none."""
        return "" if span is None else f" (95 % interval {self.shown(span[0])} to {self.shown(span[1])})"

    def gap(self, pair: Difference) -> str:
        """Return a difference with its interval."""
        span = interval_of(pair)
        return f"{self.points(pair.difference)}{self.in_brackets(span)}"

    def inner_gap(self, pair: Pair) -> str:
        """Return a difference with its interval, without brackets of its own."""
        span = interval_of(pair)
        text = self.shown(pair.difference)
        text += "" if span is None else f", 95 % interval {self.shown(span[0])} to {self.shown(span[1])}"
        # A pair's own interval may leave out zero where all pairs together do not allow the claim.
        alone = span is not None and not span[0] <= 0 <= span[1]
        return f"{text}; not significant after correction for all pairs" if alone and not pair.different else text


def make_verdict(rows: Rows, estimates: Estimates, by: Yardstick) -> Verdict:
    """Return the verdict from every row's facts and from estimates by (name, metric); entries are ranked `by` a score.

    Keys: headline, text, metric, heading, bounded, unit, best, tied_with_best, pairs (every two entries, the higher
    score first, with the same for test loss under `loss`), baseline_pairs, detectable_gap, covers, documents (how many,
    or how many groups), recommendations. An entry is tied with the best if the pair's p value, corrected for all pairs,
    is 0.05 or more.
    """
    entries = [n for n, row in rows.items() if row.kind == "entry" and row.status == "done"]
    entries = sorted((n for n in entries if (n, by.metric) in estimates), key=lambda n: -estimates[n, by.metric].value)
    levels = [n for n, row in rows.items() if row.kind == "baseline" and CEILING not in n]
    pairs = compare(list(combinations(entries, 2)), estimates, by.metric)
    levels = [b for b in levels if (b, by.metric) in estimates]
    against = compare([(n, b) for b in levels for n in entries if level_with(n, b, rows)], estimates, by.metric)
    best = entries[0] if entries else None
    tied = [pair.second for pair in pairs if pair.first == best and not pair.different]
    shown = [estimates[n, by.metric] for n in entries]
    documents = shown[0].clusters if shown else 0
    gaps = sorted(pair.detectable for pair in pairs if pair.detectable is not None)
    facts = Verdict(
        headline="",
        text="",
        metric=by.metric,
        heading=by.heading,
        bounded=by.bounded,
        unit=by.unit,
        best=best,
        tied_with_best=tied,
        pairs=pairs,
        baseline_pairs=against,
        detectable_gap=gaps[len(gaps) // 2] if gaps else None,
        covers=coverage([spread for score in shown for spread in score.spreads]),
        documents=documents,
        recommendations=recommendations([best, *tied] if best else [], rows),
    )
    first = headline(facts, estimates, by)
    sentences = [first, *details(facts, rows, by), *left_out(rows)]
    return facts.model_copy(update={"headline": first, "text": " ".join(sentences)})


def level_with(name: str, level: str, rows: Rows) -> bool:
    """Return whether an entry is held to a baseline: the base as only some entries store it is one for those alone."""
    one_of_several = level != BASE and rows[level].method == BASE
    return not one_of_several or storage(rows[name]) == storage(rows[level])


def headline(verdict: Verdict, estimates: Estimates, by: Yardstick) -> str:
    """Return the first sentence: which entry is ahead, or which are tied."""
    best, tied, pairs = verdict.best, verdict.tied_with_best, verdict.pairs
    if best is None:
        return "No entry has finished, so there is nothing to compare yet."
    score = estimates[best, by.metric]
    if not pairs:
        span = score.interval()
        return f"{best} is the only finished entry: {by.heading} {by.shown(score.value)}{by.in_brackets(span)}."
    if verdict.documents < 2:
        return f"One test {by.unit[:-1]} cannot tell entries apart, so nothing can be concluded."
    if not tied:
        lead = f"{by.gap(pairs[0])} above {pairs[0].second}"
        return f"{best} is best on {by.heading}: {by.shown(score.value)}, {lead}."
    if len(tied) == 1:
        pair = next(pair for pair in pairs if pair.first == best and pair.second == tied[0])
        return f"{listed([best, *tied])} are tied on {by.heading} (difference {by.inner_gap(pair)})."
    widest = max(pair.difference for pair in pairs if pair.first == best and pair.second in tied)
    differences = f"differences from {best} of at most {by.points(widest)}"
    return f"{listed([best, *tied])} are tied on {by.heading} ({differences})."


def details(verdict: Verdict, rows: Rows, by: Yardstick) -> list[str]:
    """Return the sentences after the first: costs of tied entries, who is behind, loss, baselines, and the evidence."""
    best, tied = verdict.best, verdict.tied_with_best
    if best is None:
        return []
    mine = [pair for pair in verdict.pairs if pair.first == best]
    parts = cheaper([best, *tied], rows)
    # Without a tie the first sentence holds the next entry's gap already.
    behind = [pair for pair in mine[0 if tied else 1 :] if pair.different]
    parts += [f"{pair.second} is behind {best} by {by.gap(pair)}." for pair in behind]
    for pair in mine:
        loss = pair.loss
        if pair.second in tied and loss and loss.different:
            lower, higher = (best, pair.second) if loss.difference < 0 else (pair.second, best)
            parts.append(f"The test loss of {lower} is lower than that of {higher} by {abs(loss.difference):.3f}.")
    parts += few_bits(verdict.pairs, rows, by)
    parts += unbeaten(verdict.baseline_pairs)
    if verdict.documents < 2 or not verdict.pairs:
        return parts
    if verdict.detectable_gap is not None:
        gap = by.points(verdict.detectable_gap)
        parts.append(f"With this test set a true gap of {gap} is detected with 80 % power.")
    count = len(verdict.pairs)
    seeds = COVERED[verdict.covers]
    corrected = f"; ties are judged with Shaffer's correction for {count} pairs" if count > 1 else ""
    return [
        *parts,
        f"Intervals are 95 % confidence intervals over {verdict.documents:,} test {by.unit} {seeds}{corrected}.",
    ]


def unbeaten(pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each baseline that some entry is not shown to beat (protocol rule 6)."""
    weak: dict[str, list[str]] = {}
    for pair in pairs:
        if not (pair.different and pair.difference > 0):
            weak.setdefault(pair.second, []).append(pair.first)
    known = {"base": "the untouched base", "lead-1": "the document's first sentence (lead-1)"}
    return [f"Not shown to beat {known.get(level, level)}: {listed(names)}." for level, names in weak.items()]


def few_bits(pairs: Sequence[Pair], rows: Rows, by: Yardstick) -> list[str]:
    """Return a sentence for each entry with a twin over a base in more bits: what few bits cost, and what they save."""
    found = []
    for packed, plain in twins({n: row for n, row in rows.items() if row.status == "done"}):
        pair = next((p for p in pairs if {p.first, p.second} == {packed, plain}), None)
        if pair is None:
            continue
        word = "costs" if pair.second == packed else "gains"
        gap = by.gap(pair) if pair.different else f"{by.gap(pair).removesuffix(')')}; not significant)"
        saved = memory_saved(rows[packed], rows[plain])
        found.append(f"{packed} is {plain} over a base in {storage(rows[packed])}, which {word} {gap}{saved}.")
    return found


def left_out(rows: Rows) -> list[str]:
    """Return a sentence that names entries and baselines without results, and why they have none."""
    missing: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row.status != "done":
            missing.setdefault(row.status, []).append(name)
    groups = [f"{listed(names)} ({status})" for status, names in missing.items()]
    return [f"Not in this comparison: {listed(groups)}."] if groups else []


def cheaper(names: Sequence[str], rows: Rows) -> list[str]:
    """Return a sentence on adapter size, which may decide between tied entries."""
    known = {n: size for n in names if (size := rows[n].costs.get("adapter_bytes"))}
    if len(known) < 2:
        return []
    small, large = min(known, key=lambda n: known[n]), max(known, key=lambda n: known[n])
    ratio = known[large] / known[small]
    return [f"Of these, the adapter of {small} is {ratio:,.1f}x smaller than that of {large}."] if ratio >= 1.05 else []


def recommendations(names: Sequence[str], rows: Rows) -> dict[str, str | None]:
    """Return one of the entries `names`, which are tied with the best, for each preference.

    Quality asks for the lowest validation loss, memory for the lowest peak, size for the smallest adapter, time for the
    shortest training. None if that was not measured for all of them.
    """
    facts = {p: {n: rows[n].costs.get(cost) for n in names} for p, cost in COSTS.items()}
    losses = {n: rows[n].metrics.get("validation/loss") for n in names}
    quality = {n: loss.mean if loss else None for n, loss in losses.items()}
    return {preference: lowest(values) for preference, values in {"quality": quality, **facts}.items()}


def lowest(values: Mapping[str, float | None]) -> str | None:
    """Return the name with the lowest value; None if a value is unknown, or there are no names."""
    known = {name: value for name, value in values.items() if value is not None}
    return min(known, key=lambda name: known[name]) if known and len(known) == len(values) else None


def listed(names: Sequence[str]) -> str:
    """Return names as a phrase: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

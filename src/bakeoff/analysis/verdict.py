"""The verdict: a few plain sentences, none of which says more than the statistics support."""

from collections.abc import Sequence
from itertools import combinations

from bakeoff.analysis.caveats import IN_HEADLINE, equal_scores, few_documents, listed, told_apart
from bakeoff.analysis.pairs import compare
from bakeoff.analysis.preferences import Rows, maybe_best, near_best, recommendations
from bakeoff.analysis.round_words import how_it_went, rounds_facts, why_tied
from bakeoff.analysis.rounds import Estimates, Rounds
from bakeoff.analysis.seeds import coverage
from bakeoff.analysis.twins import memory_saved, storage, twins
from bakeoff.analysis.yardstick import Yardstick
from bakeoff.config.names import MAJORITY
from bakeoff.errors import listed as shortened
from bakeoff.scoring.baselines import BASE
from bakeoff.scoring.prompted import is_prompted
from bakeoff.store.results_document import Pair, Verdict

COVERED = {
    "documents and seeds": "and seeds",
    "documents and two seeds": "and two seeds (two are too few to know their spread; use three)",
    "documents and some seeds": "and seeds (an entry with one seed is assumed to vary as the others do)",
    "documents": "(one seed per entry, so not over seeds)",
}
CEILING = "oracle"  # a baseline that reads the reference: no entry is asked to beat it


def ranked(rows: Rows, estimates: Estimates, metric: str, rounds: Rounds | None) -> list[str]:
    """Return the entries that are compared, the highest score first.

    With seeds in rounds those of the looks are compared, and one that a look has shown to be behind another is not
    first, whatever later seeds of the other did.
    """
    entries = [n for n, row in rows.items() if row.kind == "entry" and (n, metric) in estimates]
    if rounds is None:
        entries = [n for n in entries if rows[n].status == "done"]
    else:
        entries = [n for n in entries if rounds.taken and n in rounds.counts]
    entries = sorted(entries, key=lambda n: -estimates[n, metric].value)
    first = next((n for n in entries if rounds is None or n not in rounds.behind), None)
    return entries if first is None else [first, *(n for n in entries if n != first)]


def make_verdict(
    rows: Rows, estimates: Estimates, by: Yardstick, rounds: Rounds | None = None, budget: float | None = None
) -> Verdict:
    """Return the verdict from every row's facts and from estimates by (name, metric); entries are ranked `by` a score.

    An entry is tied with the best if the pair's p value, corrected for all pairs, is 0.05 or more. In every pair the
    higher score is first. With seeds in `rounds` pairs are those of its looks; a `budget`
    in seconds may have ended them.
    """
    entries = ranked(rows, estimates, by.metric, rounds)
    names = [rounds.ahead(a, b) if rounds else (a, b) for a, b in combinations(entries, 2)]
    pairs = compare(names, estimates, by.metric, rounds)
    levels = [n for n, row in rows.items() if row.kind == "baseline" and CEILING not in n]
    levels = [b for b in levels if (b, by.metric) in estimates]
    against = compare([(n, b) for b in levels for n in entries if level_with(n, b, rows)], estimates, by.metric, rounds)
    best = entries[0] if entries else None
    tied = [pair.second for pair in pairs if pair.first == best and not pair.different]
    shown = [estimates[n, by.metric] for n in entries]
    documents = shown[0].clusters if shown else 0
    gaps = sorted(pair.detectable for pair in pairs if pair.detectable is not None)
    gap = gaps[len(gaps) // 2] if gaps else None
    worth = by.worth if by.worth is not None or gap is None else gap / 2
    near = near_best(best, pairs, worth) if best else []
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
        detectable_gap=gap,
        covers=coverage([spread for score in shown for spread in score.spreads]),
        documents=documents,
        maybe_best=maybe_best(entries, pairs) if documents > 1 else entries,
        worth=worth,
        worth_given=by.worth is not None,
        near_best=near,
        rounds=rounds_facts(rounds, best, budget) if rounds else None,
        recommendations=recommendations([best, *tied] if best else [], near, rows),
    )
    first = " ".join([headline(facts, estimates, by), *prompts_as_good(facts, by)])
    scores = {name: estimates[name, by.metric] for name in entries}
    known = [*equal_scores(scores, by.heading), *few_documents(scores, by.unit)]
    sentences = [first, *details(facts, rows, by), *known, *left_out(rows)]
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
    return f"{first_of([best, *tied])} are tied on {by.heading} ({differences})."


def first_of(names: Sequence[str]) -> str:
    """Return names, or of many the first ones and how many more there are."""
    return listed(names) if len(names) <= IN_HEADLINE else shortened(names, IN_HEADLINE)


def prompts_as_good(verdict: Verdict, by: Yardstick) -> list[str]:
    """Return a sentence if a prompt, for which nothing is trained, ties with the best entry or is above it."""
    best = verdict.best
    rivals = [p for p in verdict.baseline_pairs if p.first == best and is_prompted(p.second)]
    rivals = [p for p in rivals if not (p.different and p.difference > 0)]
    if not rivals or verdict.documents < 2:
        return []
    rivals.sort(key=lambda pair: pair.difference)
    top, others = rivals[0], [pair.second for pair in rivals[1:]]
    also = f", and so {'do' if len(others) > 1 else 'does'} {listed(others)}" if others else ""
    if top.different:
        return [f"The prompt {top.second}, which trains nothing, is above {best} by {by.points(-top.difference)}."]
    return [f"The prompt {top.second}, which trains nothing, ties with {best} (difference {by.inner_gap(top)}){also}."]


def details(verdict: Verdict, rows: Rows, by: Yardstick) -> list[str]:
    """Return the sentences after the first: costs of tied entries, who is behind, loss, baselines, and the evidence."""
    best, tied = verdict.best, verdict.tied_with_best
    if best is None:
        return []
    mine = [pair for pair in verdict.pairs if pair.first == best]
    parts = [f"Tied with {best} are also {listed(more)}."] if (more := tied[IN_HEADLINE - 1 :]) else []
    parts += cheaper([best, *tied], rows)
    # Without a tie the first sentence holds the next entry's gap already.
    behind = [pair for pair in mine[0 if tied else 1 :] if pair.different]
    parts += [f"{pair.second} is behind {best} by {by.gap(pair)}." for pair in behind]
    parts += told_apart(tied, verdict.maybe_best, [best, *(pair.second for pair in mine)])
    parts += by_loss(best, [pair for pair in mine if pair.second in tied])
    parts += few_bits(verdict.pairs, rows, by)
    parts += unbeaten(verdict.baseline_pairs)
    if verdict.documents < 2 or not verdict.pairs:
        return parts
    if verdict.rounds:
        return [*parts, *why_tied([p for p in mine if not p.different], verdict.rounds, by),
                *how_it_went(verdict, verdict.rounds, by)]  # fmt: skip
    if verdict.detectable_gap is not None:
        parts.append(f"With this test set {by.detected(verdict.detectable_gap)}.")
    count = len(verdict.pairs)
    seeds = COVERED[verdict.covers]
    corrected = f"; ties are judged with Shaffer's correction for {count} pairs" if count > 1 else ""
    return [
        *parts,
        f"Intervals are 95 % confidence intervals over {verdict.documents:,} test {by.unit} {seeds}{corrected}.",
    ]


def by_loss(best: str, tied: Sequence[Pair]) -> list[str]:
    """Return a sentence on entries tied with the best whose loss is higher, and one for each whose loss is lower."""
    told = [(pair.second, pair.loss.difference) for pair in tied if pair.loss and pair.loss.different]
    higher = [f"that of {name} by {-gap:.3f}" for name, gap in told if gap < 0]
    lower = [f"The test loss of {name} is lower than that of {best} by {gap:.3f}." for name, gap in told if gap >= 0]
    return [*([f"The test loss of {best} is lower than {listed(higher)}."] if higher else []), *lower]


def unbeaten(pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each baseline that some entry is not shown to beat (protocol rule 6).

    Of many such entries, it has the names of those that are shown to, if these are fewer.
    """
    known = {"base": "the untouched base", "lead-1": "the document's first sentence (lead-1)"}
    known[MAJORITY] = f"the most frequent label ({MAJORITY})"
    told = []
    for level in dict.fromkeys(pair.second for pair in pairs):
        mine, what = [pair for pair in pairs if pair.second == level], known.get(level, level)
        strong = [pair.first for pair in mine if pair.different and pair.difference > 0]
        weak = [pair.first for pair in mine if pair.first not in strong]
        if weak and (len(weak) <= IN_HEADLINE or len(weak) <= len(strong)):
            told.append(f"Not shown to beat {what}: {listed(weak)}.")
        elif weak:
            which = f"Only {listed(strong)} of" if strong else "None of"
            told.append(f"{which} {len(mine)} entries {'are' if len(strong) > 1 else 'is'} shown to beat {what}.")
    return told


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

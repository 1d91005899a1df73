"""Sentences on what people and a judge model prefer."""

from collections.abc import Sequence

from bakeoff.errors import listed
from bakeoff.store.results_document import Preference

FEW = 3  # pairs that a reader wants in sentences
MANY = 5_000  # documents that nobody tastes


def preference_sentences(found: Sequence[Preference]) -> list[str]:
    """Return the sentences of all pairs that were tasted or judged; none a second time."""
    return [*dict.fromkeys(sentence for row in found for sentence in sentences(row))]


def in_short(found: Sequence[Preference]) -> list[str]:
    """Return what a verdict says of the pairs: of many only a few in sentences, those that people tasted first."""
    ordered = sorted(found, key=lambda row: not row.labels)
    told, rest = ordered[:FEW], ordered[FEW:]
    return [*preference_sentences(told), *of_more_pairs(rest)]


def of_more_pairs(rest: Sequence[Preference]) -> list[str]:
    """Return the sentence on pairs that are only in the table: how many there are, and which are decided."""
    if not rest:
        return []
    decided = []
    for row in (row for row in rest if row.different):
        name, other = (row.first, row.second) if row.net >= 0 else (row.second, row.first)
        decided.append(f"{name} over {other} ({'people' if row.labels else 'the judge alone'})")
    pairs = "1 more pair is" if len(rest) == 1 else f"{len(rest)} more pairs are"
    return [f"{pairs} in the table of preferences; decided: {listed(decided) if decided else 'none'}."]


def sentences(row: Preference) -> list[str]:
    """Return the sentences of one pair: how often each is preferred, by whom, and what would decide."""
    if not row.labels and not row.judged:
        return [f"On {row.first} and {row.second}: {note}." for note in row.notes]
    who = "People" if row.labels else f"The judge {row.judge}"
    name, other, sign = (row.first, row.second, 1) if row.net >= 0 else (row.second, row.first, -1)
    ends = [end for end in (row.low, row.high) if end is not None][::sign]
    span = f", 95 % interval {points(sign * ends[0])} to {points(sign * ends[1])}" if len(ends) == 2 else ""
    won, lost = (row.wins, row.losses) if sign > 0 else (row.losses, row.wins)
    counts = f"{won:.0%} of comparisons won, {lost:.0%} lost, the others ties or both bad"
    verb = "prefer" if row.labels else "prefers"
    if row.different:
        first = f"{who} {verb} the outputs of {name} to those of {other}"
    else:
        first = f"{who} are not shown to prefer" if row.labels else f"{who} is not shown to prefer"
        first += f" the outputs of {name} or of {other}"
    first += f": net {points(sign * row.net)} points for {name}{span} ({counts})."
    return [first, *by_whom(row), *what_decides(row)]


def by_whom(row: Preference) -> list[str]:
    """Return the sentences on how many labels there are, and on the judge."""
    parts = []
    if row.labels:
        tasters = "1 taster" if row.tasters == 1 else f"{row.tasters} tasters"
        joined = f", joined with the judge {row.judge} on {row.judged:,}" if row.by == "people and judge" else ""
        parts.append(f"That is from {row.votes:,} votes of {tasters} on {row.labels:,} documents{joined}.")
    else:
        parts.append(f"That is the judge's preference on {row.judged:,} documents, not people's.")
    facts = []
    if row.agreement is not None:
        facts.append(f"names people's winner in {row.agreement:.0%} of the documents where both have one")
    if row.flips is not None:
        facts.append(f"changes its answer with the order of the outputs in {row.flips:.0%}")
    if row.unanswered:
        facts.append(f"gave no usable answer {row.unanswered:,} times, which count as ties")
    if facts:
        parts.append(f"The judge {', '.join(facts)}.")
    return [*parts, *(f"Note: {note}." for note in row.notes)]


def what_decides(row: Preference) -> list[str]:
    """Return the sentence on how many labels would decide, where people's labels do not."""
    if not row.labels or row.different:
        return []
    if row.low is None:
        return ["So few labels tell nothing yet."]
    if row.needed is None:
        return []
    count = f"about {row.needed:,}" if row.needed <= MANY else f"more than {MANY:,}"
    return [f"To show a preference as large as this one, a new tasting would need {count} documents (80 % power)."]


def points(value: float) -> str:
    """Return net wins in points: hundredths."""
    return f"{100 * value:z.0f}"

"""Which test examples the page shows: some evenly spaced, and those on which two entries disagree most."""

from itertools import combinations
from typing import Any

from bakeoff.report.source import Source

SPACED = 8
MOST = 60
LETTERS = 250_000  # of documents, references and outputs together ...
FRAME = 130  # ... and of what stands around each output in the page
DOCUMENT = 2_500  # letters of a document; the whole one is in data/test.jsonl


def samples(source: Source) -> list[dict[str, Any]]:
    """Return examples with the output of every row's first finished run; the evenly spaced ones first.

    Keys: place, id, document, cut (characters left out), reference, spaced, outputs (number, name, text, score; entries
    first). A number is the row's place in the table.
    """
    rows = source.results.rows
    outputs = {name: found for name, row in rows.items() if (found := source.predictions(row))}
    if not outputs:
        return []
    scores = {name: [row.score(source.results.primary) for row in found] for name, found in outputs.items()}
    compared = [name for name in outputs if name in source.results.entries]
    spaced, further = wanted(scores, compared if len(compared) > 1 else list(outputs))
    examples = {i: example.printable() for i, example in enumerate(source.examples()) if i in {*spaced, *further}}
    numbers = {name: number for number, name in enumerate(rows)}
    shown: list[dict[str, Any]] = []
    letters = 0
    for i in [*spaced, *further]:
        document, reference = examples[i].document, examples[i].summary
        texts = {name: found[i].printable().output for name, found in outputs.items()}
        sample = {
            "place": i,
            "id": examples[i].id,
            "document": document[:DOCUMENT],
            "cut": max(0, len(document) - DOCUMENT),
            "reference": reference,
            "spaced": i in spaced,
            "outputs": [
                {"number": numbers[name], "name": name, "text": text, "score": scores[name][i]}
                for name, text in texts.items()
            ],
        }
        letters += len(document[:DOCUMENT]) + len(reference)
        letters += sum(FRAME + len(text) for text in texts.values())
        if shown and letters > LETTERS:
            break
        shown.append(sample)
    return shown


def wanted(scores: dict[str, list[float]], names: list[str]) -> tuple[list[int], list[int]]:
    """Return the places of evenly spaced examples, then of those on which pairs of `names` disagree most, in turn."""
    total = len(scores[names[0]])
    count = min(SPACED, total)
    spaced = [i * total // count for i in range(count)]
    turns = [
        sorted(range(total), key=lambda i: -abs(scores[a][i] - scores[b][i])) for a, b in combinations(names, 2)
    ]  # fmt: skip
    in_turn = dict.fromkeys(order[rank] for rank in range(min(total, MOST)) for order in turns)
    return spaced, [i for i in in_turn if i not in spaced][: MOST - count]

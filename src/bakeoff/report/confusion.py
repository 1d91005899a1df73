"""Which labels were written for which, in a classification: one table per row of results."""

from typing import Any

from bakeoff.config.names import MAJORITY
from bakeoff.errors import printable
from bakeoff.report.source import Source
from bakeoff.scoring.labels import ACCURACY, OTHER, confusion, label, labels_in

MOST = 20  # labels in a table, the most frequent


def confusions(source: Source) -> list[dict[str, Any]]:
    """Return a table for each row with outputs, the best entry first; none where labels are not scored.

    Keys: name, columns (the labels, and OTHER), rows (label, cells; a cell has its text, and whether it is right),
    left_out (examples whose label is too rare to be shown).
    """
    results = source.results
    if ACCURACY.primary not in {measure.name for measure in results.metrics}:
        return []
    examples = list(source.examples())
    references = [example.references or [example.summary] for example in examples]
    truths = [texts[0] for texts in references]
    labels = labels_in(truths)
    if len(labels) <= MOST:
        labels = (source.plans[0].config or {}).get("labels") or labels
    labels = labels[:MOST]
    shown = {label(name) for name in labels}
    kept = [i for i, truth in enumerate(truths) if label(truth) in shown]
    best = results.verdict.best
    tables = []
    for name, row in sorted(results.rows.items(), key=lambda item: item[0] != best):
        outputs = [prediction.output for prediction in source.predictions(row)]
        if outputs and name != MAJORITY:  # which writes one label
            counts = confusion([references[i] for i in kept], [outputs[i] for i in kept], labels)
            tables.append({
                "name": name,
                "columns": [*map(printable, labels), OTHER],
                "rows": [
                    {"label": printable(labels[i]),
                     "cells": [{"text": f"{count:,}", "right": i == j} for j, count in enumerate(line)]}
                    for i, line in enumerate(counts)
                ],
                "left_out": len(truths) - len(kept),
            })  # fmt: skip
    return tables

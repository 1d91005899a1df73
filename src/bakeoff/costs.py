"""What a plan will cost: counts that are exact, and from a probe's measurements how long it takes and what fits.

Plain numbers; nothing here starts anything.
"""

from collections.abc import Mapping
from typing import Any

import numpy

from bakeoff.data.tokens import Lengths
from bakeoff.sections import ProtocolConfig

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
TRAINED_BYTES = 16  # an fp32 weight, its gradient and AdamW's two moments


def exact_counts(lengths: Mapping[str, Lengths], protocol: ProtocolConfig, output_tokens: int) -> dict[str, Any]:
    """Return token counts of one run: an epoch's, the longest batch's, and what is read and written at its end."""
    totals = lengths["train"].totals
    longest = numpy.sort(totals)[::-1][: protocol.batch_size]
    return {
        "train_tokens": int(totals.sum(dtype=numpy.int64)),
        "longest_batch_tokens": int(longest[0]) * len(longest),
        "validation_tokens": int(lengths["validation"].totals.sum(dtype=numpy.int64)),
        "test_tokens": int(lengths["test"].totals.sum(dtype=numpy.int64)),
        "output_tokens": len(lengths["test"].totals) * output_tokens,
    }


def least_bytes(total: int, trainable: int, precision: str) -> int:
    """Return what a run's weights, gradients and optimizer take: less than this it cannot need."""
    return (total - trainable) * WEIGHT_BYTES[precision] + trainable * TRAINED_BYTES


def forecast(document: Mapping[str, Any], probes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return seconds and peak bytes of each entry's runs, and of all runs, from what a probe measured of each entry.

    A probe's steps are of the longest batch and read `tokens` each; other batches are taken to cost as much a token,
    which is a little too much for short ones. The trunk cache, which makes later epochs faster, is not counted.
    """
    counts, entries = document["counts"], {}
    for name, found in probes.items():
        row = document["entries"][name]
        if found.get("error"):
            entries[name] = {"error": found["error"], "seconds": None, "peak_bytes": None}
            continue
        epochs = document["epochs"]
        a_token = found["step_seconds"] / found["tokens"]
        training = a_token * counts["train_tokens"] * epochs
        validating = found["evaluation_seconds"] / found["evaluated_tokens"] * counts["validation_tokens"]
        testing = found["evaluation_seconds"] / found["evaluated_tokens"] * counts["test_tokens"]
        writing = found["generation_seconds"] / found["generated_tokens"] * counts["output_tokens"]
        finals = sum(run["entry"] == name and run["kind"] == "entry" for run in document["runs"])
        a_run = training + validating * (epochs + 1) + testing + writing + found["setup_seconds"]
        # The chosen trial's steps are its first seed's.
        trials = training * max(0, row["trial_steps"] - row["steps"]) / row["steps"] if row["trials"] else 0.0
        entries[name] = {"error": None, "seconds": finals * a_run + trials, "peak_bytes": found["peak_bytes"]}
    known = [row["seconds"] for row in entries.values() if row["seconds"] is not None]
    memory = document["memory_bytes"]
    return {
        "entries": entries,
        "seconds": sum(known) if len(known) == len(entries) else None,
        "too_large": [n for n, r in entries.items() if r["error"] or r["peak_bytes"] > memory],
    }

"""What an export lost: its outputs and losses against those of the evaluation, on the same test examples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy

from bakeoff.analysis.statistics import Resamples, Scores, estimate
from bakeoff.analysis.summary import read_clusters
from bakeoff.config.config import Config
from bakeoff.data.examples import Example
from bakeoff.scoring.metrics import is_plain, metric, score_outputs, value_of
from bakeoff.scoring.outputs import references_of
from bakeoff.store.run_folder import Folder, RunFolder

SHOWN = 0.0005  # of a loss: a smaller difference is 0.000 on the card


@dataclass(frozen=True)
class Change:
    """A difference, export - evaluation, with its 95 % interval over test documents; None for one document."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Check:
    """What reading an export back has shown. Scores are 0 to 1, losses in nats per token.

    `loss` is None where the program that ran it gives none. `prompts` have the ids of training, `whole` of the `uncut`
    ones also if they are tokenized as one text; `ends`: the id that ends outputs is that of training.
    """

    examples: int
    equal: int
    heading: str
    score: Change
    loss: Change | None
    prompts: int
    whole: int
    uncut: int
    ends: bool
    seconds: float
    by: str

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def complaints(self) -> list[str]:
        """Return what a user should know before using the export: a loss beyond chance, other ids, another end."""
        found = []
        if self.score.high is not None and self.score.high < 0:
            found.append(f"{self.heading} is lower than in the evaluation: {points(self.score)}")
        if self.loss and self.loss.low is not None and self.loss.low > SHOWN:
            found.append(f"the test loss is higher than in the evaluation: {nats(self.loss)}")
        if self.prompts < self.examples:
            found.append(f"only {self.prompts} of {self.examples} prompts have the token ids of training")
        if not self.ends:
            found.append("the token that ends an output is not that of training")
        return found


def points(change: Change) -> str:
    """Return a difference of scores in words: points of 100, with its interval."""
    within = "" if change.low is None else f" ({100 * change.low:+.1f} to {100 * (change.high or 0):+.1f})"
    return f"{100 * change.value:+.1f} points{within}"


def nats(change: Change) -> str:
    """Return a difference of losses in words, with its interval."""
    within = "" if change.low is None else f" ({change.low:+.3f} to {change.high or 0:+.3f})"
    return f"{change.value:+.3f}{within}"


def compare(folder: Folder, files: RunFolder, config: Config, found: Mapping[str, Any], by: str) -> Check:
    """Return how an export's outputs for the first test examples differ from the run's own predictions."""
    plan, outputs = folder.plan(), list(found["outputs"])
    count = len(outputs)
    before = [row.row() for row in files.predictions()[:count]]
    test = [Example.from_row(example.row()) for example, _ in zip(folder.examples("test"), outputs, strict=False)]
    name, measure = measured_by(config, plan.primary)
    references = references_of(test, plan)
    old, new = (scores(name, measure, texts, references) for texts in ([str(row["output"]) for row in before], outputs))
    resamples = Resamples(read_clusters(folder, plan, config)[:count])
    heading = next(m.heading for m in metric(name).measures if m.name == measure)
    parity = {key: found[key] for key in ("prompts", "whole", "uncut", "ends", "seconds")}
    return Check(
        examples=count, equal=sum(row["output"] == text for row, text in zip(before, outputs, strict=True)),
        heading=heading, score=change(old, new, [1.0] * count, resamples), loss=loss_change(before, found, resamples),
        by=by, **parity,
    )  # fmt: skip


def measured_by(config: Config, primary: str) -> tuple[str, str]:
    """Return the metric and its measure that ranks entries; ROUGE-L where that is code, or needs a model of its own."""
    for name in config.metrics:
        if is_plain(name) and any(m.name == primary for m in metric(name).measures):
            return name, primary
    return "rouge", "rougeL"


def scores(name: str, measure: str, outputs: Sequence[str], references: Sequence[list[str]]) -> list[float]:
    """Return each output's score."""
    return [value_of(row[measure]) for row in score_outputs([name], outputs, references)[0]]


def loss_change(before: Sequence[Mapping[str, Any]], found: Mapping[str, Any], resamples: Resamples) -> Change | None:
    """Return the difference of the losses per target token; None where the export gave none."""
    if found.get("losses") is None:
        return None
    counts = [float(row["tokens"]) for row in before]
    return change([row["loss"] for row in before], [loss for loss, _ in found["losses"]], counts, resamples)


def change(old: Sequence[float], new: Sequence[float], counts: Sequence[float], resamples: Resamples) -> Change:
    """Return the difference of two ratios of sums, over the same draws of documents."""
    table = {
        key: Scores(numpy.array([values], dtype=float), numpy.array(counts, dtype=float), seeded=False)
        for key, values in (("old", old), ("new", new))
    }
    found = estimate(table, resamples)
    difference = found["new"] - found["old"]
    low, high = difference.interval() or (None, None)
    return Change(difference.value, low, high)

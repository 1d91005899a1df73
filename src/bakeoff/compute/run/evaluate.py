"""Measures a trained run or a baseline: the test split, read once, and over-fitting and forgetting."""

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from bakeoff.compute.decoding.greedy import Reading, read_and_generate, reads_targets
from bakeoff.compute.model.base import Base, load_tokenizer
from bakeoff.compute.model.device import peak_bytes, reset_peak
from bakeoff.compute.run.checks import finite
from bakeoff.compute.run.context import Work
from bakeoff.compute.training.loss import Losses, evaluate_loss, mean_loss, read_at_once
from bakeoff.config.planned import decodes_in
from bakeoff.data.token_file import lengths_of
from bakeoff.scoring.forgetting import neutral_rows
from bakeoff.scoring.lengths import text_lengths
from bakeoff.scoring.outputs import references_of, scored, tell_function
from bakeoff.scoring.prompted import first_answer, separator_of
from bakeoff.store.files import write_jsonl
from bakeoff.store.records import RunResult


def evaluate(work: Work, base: Base, adapted: nn.Module) -> RunResult:
    """Read the test split once for its loss, greedy outputs and their scores, in one pass if that is possible."""
    tokens, precision = work.tokens["test"], decodes_in(work.plan, work.config)
    reset_peak(work.device)
    work.state("testing")
    if not work.prompted:
        look_beside(work, base, adapted)
    together, prompts, targets = reads_targets(base, precision), [], []
    if not together:
        losses = read_apart(work, base, adapted)
    work.state("generating")
    for row in tokens:  # 4 bytes an id, where a list takes 36
        prompts.append(array("i", row.prompt))
        targets.append(array("i", row.target))
    with work.clocks.phase("generation"):
        ids, losses_read = read_and_generate(
            work.for_decoding(base, adapted, precision), adapted, prompts, targets if together else None,
            work.output_tokens, work.config.generation.batch_size, partial(tell, work),
        )  # fmt: skip
    losses = losses_read if together else losses
    work.record.metrics["test/loss"] = mean_loss(losses)
    work.record.costs["evaluation_peak_bytes"] = work.team.most(peak_bytes(work.device))
    if not work.team.leads:
        return work.record
    work.record.check("loss_finite", finite(work.files.curve(), losses))
    outputs = work.form(base).texts(ids, work.indented)
    if work.shows_examples and work.plan.chat is None:  # a chat template's examples are turns, each with its end
        between = separator_of(work.run.settings)
        outputs = [first_answer(text, between, work.indented) for text in outputs]
    return score(work, outputs, losses)


def read_apart(work: Work, base: Base, adapted: nn.Module) -> Losses:
    """Return the test examples' losses if decoding reads its prompts in another way."""
    tokens, clocks = work.tokens["test"], work.clocks
    before = clocks.seconds.get("evaluation", 0.0)
    with clocks.phase("evaluation"):
        losses = evaluate_loss(base, adapted, tokens, 2 * work.config.protocol.batch_size, positions=read_at_once(base))
    tell(work, 0, Reading(int(lengths_of(tokens).totals.sum()), clocks.seconds["evaluation"] - before))
    return losses


def tell(work: Work, done: int, reading: Reading) -> None:
    """Report how many test examples are done, and what was read for them."""
    values: dict[str, Any] = {"examples": done, "examples_total": len(work.tokens["test"])}
    if reading.tokens:
        values |= {"read_tokens": reading.tokens, "read_seconds": reading.seconds}
    work.report("progress", values)


def look_beside(work: Work, base: Base, adapted: nn.Module) -> None:
    """Measure what an adapter forgets and over-fits: losses on neutral text and on a sample of training examples.

    The sample is at most as large as the validation split, and evenly spaced over the training split.
    """
    metrics, train = work.record.metrics, work.tokens["train"]
    batch, most = 2 * work.config.protocol.batch_size, read_at_once(base)
    with work.clocks.phase("evaluation"):
        neutral = neutral_rows(base.tokenizer, work.plan.max_tokens, base.decoder_start is not None)
        if neutral:
            metrics["neutral/loss"] = mean_loss(evaluate_loss(base, adapted, neutral, batch, positions=most))
        if work.run.kind == "entry":
            count = min(len(train), len(work.tokens["validation"]))
            sample = [train[i * len(train) // count] for i in range(count)]
            loss = mean_loss(evaluate_loss(base, adapted, sample, batch, positions=most))
            metrics["train_sample/loss"] = loss
            metrics["validation/overfitting"] = metrics["validation/loss"] - loss


def score(work: Work, outputs: Sequence[str], losses: Losses | None) -> RunResult:
    """Store one row per test example and return the record with the mean scores."""
    with work.clocks.phase("evaluation"):
        tokenizer = load_tokenizer(work.config.model, work.config.pin)
        beside: list[dict[str, Any]] = [*text_lengths(outputs, references_of(work.test, work.plan), tokenizer)]
        if losses is not None:
            pairs = zip(beside, losses, strict=True)
            beside = [{**row, "loss": loss, "tokens": count} for row, (loss, count) in pairs]
        begins = partial(tell_function, work.run.id, work.emit)
        rows, means = scored(work.config.metrics, work.plan, work.test, outputs, beside, begins)
    write_jsonl(work.files.predictions_file, (row.row() for row in rows))
    work.record.metrics |= means
    return work.finished()

"""What a prompted baseline reads: training examples, or an instruction that was found, before each test document."""

import math
from collections.abc import Mapping, Sequence

from torch import nn

from bakeoff.compute.model.base import Base
from bakeoff.compute.run.context import Work
from bakeoff.compute.training.loss import evaluate_loss, mean_loss, read_at_once
from bakeoff.data.examples import Example
from bakeoff.data.tokens import Tokens
from bakeoff.methods.instructions import best, search
from bakeoff.scoring.prompted import (
    NEAREST,
    Around,
    NoRoomError,
    around_instruction,
    around_shots,
    cut_share,
    nearest_places,
    prompted_rows,
    separator_of,
)


def prompted(work: Work, base: Base) -> None:
    """Put what the baseline shows before the test documents, and record how many were cut further for it."""
    whole, form = work.tokens["test"], work.form(base)
    around = shots(work, base) if work.shows_examples else instructed(work, base, base.model)
    rows = prompted_rows(whole, around, form, work.plan.model.context, work.output_tokens)
    work.tokens["test"] = rows
    work.record.metrics["test/cut_documents"] = cut_share(rows, whole)


def shots(work: Work, base: Base) -> Sequence[Around]:
    """Return what is around the test documents with the baseline's examples before them."""
    form, settings, name = work.form(base), work.run.settings, work.run.entry
    between = separator_of(settings)
    train: Sequence[Example] | Mapping[int, Example]
    if name.startswith(NEAREST):
        count, context, train = int(name.removeprefix(NEAREST)), work.plan.model.context, work.examples("train")
        with work.clocks.phase("setup"):
            places = nearest_places(count, train, work.test, work.tokens, form, between, context, work.output_tokens)
    else:
        places, train = [settings["examples"]] * len(work.test), work.train_examples(settings["examples"])
    work.record.metrics["test/shots"] = sum(map(len, places)) / len(places)
    return list(around_shots(work.tokens, work.test, train, places, form, between))


def instructed(work: Work, base: Base, model: nn.Module) -> Sequence[Around]:
    """Return what is around the test documents with the instruction that has the lowest validation loss."""
    form, rows, batch = work.form(base), work.tokens["validation"], 2 * work.config.protocol.batch_size
    examples: Sequence[Example] = work.examples("validation")

    def shown(tokens: Sequence[Tokens], texts: Sequence[Example], text: str) -> list[Tokens]:
        around = around_instruction(tokens, texts, form, text)
        return prompted_rows(tokens, around, form, work.plan.model.context, work.output_tokens)

    def loss_of(text: str) -> float:
        try:
            prompts = shown(rows, examples, text)
        except NoRoomError:
            return math.inf
        return mean_loss(evaluate_loss(base, model, prompts, batch, positions=read_at_once(base)))

    work.state("searching")
    with work.clocks.phase("tuning"):
        losses = search(loss_of, work.run.settings["start"], work.run.settings["tried"], work.run.seed)
    work.record.instruction = best(losses)
    work.record.metrics["validation/loss"] = losses[work.record.instruction]
    return list(around_instruction(work.tokens["test"], work.test, form, work.record.instruction))

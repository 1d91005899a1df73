"""The training loop, the same for every method. A method only adds learning-rate factors and two hooks."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bakeoff.compute.model.base import Base, trainable
from bakeoff.compute.model.device import Clocks, counts_peaks, out_of_memory
from bakeoff.compute.model.team import local
from bakeoff.compute.training.ahead import Ahead
from bakeoff.compute.training.batches import epoch_batches
from bakeoff.compute.training.best import copies
from bakeoff.compute.training.fitting import positions_that_fit
from bakeoff.compute.training.loss import Serve, evaluate_loss, mean_loss, part_tokens, target_losses, whole
from bakeoff.compute.training.optimizer_state import averaged
from bakeoff.compute.training.optimizers import optimizer_of
from bakeoff.compute.training.trunk_cache import find_trunk
from bakeoff.config.lr_schedule import lr_multiplier, schedule_of
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.errors import DivergedError
from bakeoff.methods import Method

Report = Callable[[str, dict[str, Any]], None]
AfterStep = Callable[["Trainer", bool], None]


@dataclass
class Trained:
    """What training returns: counts for the record. The model then has the weights of its best checkpoint."""

    steps: int
    best_step: int
    validation_loss: float
    train_loss: float
    tokens: int
    micro_batch: int  # most examples that went through the model at once, or fewer where `positions` limited them
    skipped: int  # steps in fp16 whose gradients were not finite, so that nothing was changed
    ended: bool  # whether no step is left; else the model holds its latest weights


@dataclass
class Progress:
    """The state of training except for tensors, so that it can stop and resume."""

    step: int = 0
    tokens: int = 0
    micro_batch: int = 0
    positions: int | None = None  # that fit an accelerator at once; None: not limited
    loss_sum: float = 0.0  # of the running epoch
    targets: int = 0  # likewise
    train_loss: float = 0.0  # at the last validation
    best_loss: float = math.inf
    best_step: int = 0
    since_best: int = 0  # validations
    skipped: int = 0
    ended: bool = False


def steps_in(examples: int, protocol: ProtocolConfig) -> int:
    """Return how many optimizer steps a run takes."""
    return protocol.epochs * math.ceil(examples / protocol.batch_size)


class Trainer:
    """Trains one adapted model on one order of examples, and keeps the best checkpoint by validation loss.

    `rungs` are steps after which a validation is taken besides the protocol's own.
    """

    def __init__(
        self,
        base: Base,
        adapted: nn.Module,
        method: Method,
        protocol: ProtocolConfig,
        seed: int,
        report: Report,
        serve: Mapping[str, Serve] | None = None,  # by split
        rungs: Collection[int] = (),
    ):
        self.base, self.adapted, self.method, self.protocol = base, adapted, method, protocol
        self.seed, self.report = seed, report
        self.serve = {"train": whole, "validation": whole, **(serve or {})}
        self.weights = trainable(adapted)
        self.optimizer = optimizer_of(method, protocol, adapted)
        self.schedule = schedule_of(method.optimizer, protocol)
        self.scaler = torch.amp.GradScaler(base.device.type, enabled=base.precision == "fp16")
        self.rungs = rungs
        self.keep: AfterStep | None = None  # called after every step, with whether it was validated
        # Stored or not: dropout draws its numbers a part at a time, and a run that resumes without must draw the same.
        self.part_tokens = part_tokens(base, above_trunk=bool(find_trunk(adapted)[1]))
        self.clocks = Clocks(base.device)
        self.at = Progress(micro_batch=protocol.batch_size)
        self.saved = ""  # the name of its last checkpoint, from which it may have gone on
        self.best: dict[str, torch.Tensor] = {}  # weights; empty before the first validation
        self.batches = Ahead(base, [])

    def train(self, train: Sequence[Tokens], validation: Sequence[Tokens], until: int | None = None) -> Trained:
        """Train to the end, or until after step `until`, one of the rungs; called again, continue from there.

        At the end, which is the last step or what `protocol.patience` says, the model holds its best weights.
        """
        at, steps = self.at, steps_in(len(train), self.protocol)
        limit = steps if until is None else until
        self.batches = Ahead(self.base, train)
        lengths = self.batches.lengths
        totals = lengths.totals
        if not self.best:
            self._validate(validation, 0.0, None)
        per_epoch = steps // self.protocol.epochs
        while not at.ended and at.step < limit:
            epoch, start = divmod(at.step, per_epoch)
            if start == 0:
                at.loss_sum, at.targets = 0.0, 0
            batches = epoch_batches(totals, self.protocol.batch_size, self.seed, epoch)
            for position, members in enumerate(batches[start:], start=start + 1):
                with self.clocks.phase("train"):
                    at.loss_sum += self._step(members, batches[position : position + 1], steps)
                at.step += 1
                at.tokens += int((totals[members] - 1).sum())
                at.targets += int(lengths.trained[members].sum())
                self._check_finite(at.loss_sum, "training")
                self._progress(steps)
                validated = position == len(batches) or self._due(at.step)
                if validated:
                    at.train_loss = at.loss_sum / at.targets
                    self._validate(validation, epoch + position / len(batches), at.train_loss)
                    at.ended = at.step == steps or at.since_best == self.protocol.patience
                if self.keep:
                    self.keep(self, validated)
                if at.ended or at.step == limit:
                    break
        if at.ended:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    local(weight).copy_(self.best[name])
            if self.method.finish(self.adapted, lambda: self._loss(validation)):
                at.best_loss = self._loss(validation)
        return Trained(
            at.step, at.best_step, at.best_loss, at.train_loss, at.tokens, at.micro_batch, at.skipped, at.ended
        )

    def _due(self, step: int) -> bool:
        """Return whether a validation is due within an epoch."""
        every = self.protocol.evaluate_every
        return step in self.rungs or (every is not None and step % every == 0)

    def _step(self, members: Sequence[int], following: Sequence[list[int]], steps: int) -> float:
        """Take one optimizer step and return the batch's summed loss; `following` has the next batch, if any."""
        rate = self.optimizer.defaults["lr"] * lr_multiplier(self.at.step, steps, self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        if self.at.positions is None and counts_peaks(self.base.device):
            self._fit(members)
        losses = self._backward(members)
        for members in following:  # while an accelerator computes, before anything waits for it
            self.batches.prepare(members, *self._most())
        self.base.team.add_gradients(self.weights.values())
        self.scaler.unscale_(self.optimizer)
        self.method.before_step(self.adapted)
        if self.protocol.clip_norm is not None:
            self.base.team.clip(self.weights.values(), self.protocol.clip_norm)
        self._move()
        self.method.after_step(self.adapted, self.at.step + 1, steps)
        self.optimizer.zero_grad()
        loss = sum(float(part.cpu().double().sum()) for part in losses)  # waits for an accelerator
        return self.base.team.total(loss)

    def _move(self) -> None:
        """Let the optimizer change the weights, in fp16 only if all gradients are finite; else they count as zero."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:
            return
        self.at.skipped += 1
        if self.scaler.get_scale() < 1:
            raise DivergedError(
                f"gradients are not finite in fp16, however small they are scaled, after step {self.at.step}. "
                "Try protocol.precision: fp32, or a lower learning_rate"
            )
        for weight in self.weights.values():
            if weight.grad is not None:
                weight.grad.zero_()  # a method may gather importances from them

    def _most(self) -> tuple[int, int | None]:
        """Return how many rows and positions go through the model at once."""
        return self.at.micro_batch, self.at.positions or self.part_tokens

    def _fit(self, members: Sequence[int]) -> None:
        """Find how many positions an accelerator has room for, by the gradients of a batch's longest row alone."""
        longest = max(members, key=lambda i: len(self.batches.rows[i]))
        sizes = [weight.numel() * weight.element_size() for weight in self.weights.values()]

        def backward() -> None:
            for part, batch, _ in self.batches.make([longest], 1, None):
                losses = target_losses(self.base, self.adapted, batch, self.serve["train"]([longest][part]))
                self.scaler.scale(losses.sum()).backward()

        fit = positions_that_fit(
            self.base.device, sum(sizes), backward, len(self.batches.rows[longest]), self.at.step > 0, self.base.beside
        )
        self.at.positions = int(self.base.team.least(fit))
        self.optimizer.zero_grad()

    def _backward(self, members: Sequence[int]) -> list[torch.Tensor]:
        """Compute the gradients of the batch's mean loss and return its losses; if memory runs out, halve the parts.

        All processes of a team halve them together. Where weights are shared out they cannot: while one has no memory,
        the others wait for its part of the next block.
        """
        team, losses = self.base.team, list[torch.Tensor]()
        while True:
            failed = False
            try:
                losses = self._backward_in_parts(members)
            except RuntimeError as error:
                if not out_of_memory(error) or self.at.micro_batch <= team.size or team.sharded:
                    raise
                failed = True
            if not team.most(failed):
                return losses
            self.optimizer.zero_grad()
            self.at.micro_batch = (self.at.micro_batch + 1) // 2

    def _backward_in_parts(self, members: Sequence[int]) -> list[torch.Tensor]:
        """Add up the gradients of parts of the batch: their summed losses, divided once by the batch's targets.

        A team's processes exchange nothing here unless weights are shared out: memory may run out in any of them.
        """
        targets, found = int(self.batches.lengths.take(members).trained.sum()), []
        for part, batch, counts in self.batches.take(members, *self._most()):
            losses = target_losses(self.base, self.adapted, batch, self.serve["train"](members[part]))
            losses = losses if counts else 0 * losses
            self.scaler.scale(losses.sum() / targets).backward()
            found.append(losses.detach())
        return found

    def _loss(self, validation: Sequence[Tokens]) -> float:
        """Return the validation loss of the model as it is."""
        with self.clocks.phase("evaluation"):
            results = evaluate_loss(
                self.base, self.adapted, validation, 2 * self.protocol.batch_size, self.serve["validation"]
            )
        loss = mean_loss(results)
        self._check_finite(loss, "validation")
        return loss

    def _validate(self, validation: Sequence[Tokens], epoch: float, train_loss: float | None) -> None:
        at = self.at
        self.report("state", {"state": "validating"})
        with averaged(self.optimizer, self.weights):
            loss = self._loss(validation)
            at.since_best += 1
            if loss < at.best_loss:
                at.best_loss, at.best_step, at.since_best = loss, at.step, 0
                self.best = copies(self.weights, self.base.device, self.best)
        row = {
            "step": at.step,
            "epoch": epoch,
            "seconds": self.clocks.seconds.get("train", 0.0),
            "validation/loss": loss,
        }
        self.report("metrics", row if train_loss is None else {**row, "train/loss": train_loss})
        self.report("state", {"state": "training"})

    def _check_finite(self, loss: float, split: str) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the {split} loss is {loss} after step {self.at.step}. "
                f"Try a lower learning_rate than {self.method.learning_rate}"
                + (", or protocol.precision: fp32" if self.base.precision == "fp16" else "")
            )

    def _progress(self, steps: int) -> None:
        at, seconds = self.at, self.clocks.seconds["train"]
        self.report(
            "progress",
            {
                "step": at.step, "steps": steps, "train/loss": at.loss_sum / at.targets,
                "tokens_per_second": at.tokens / seconds, "seconds_left": seconds / at.step * (steps - at.step),
            },
        )  # fmt: skip

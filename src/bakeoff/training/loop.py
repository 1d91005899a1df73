"""The training loop: one, for every method. A method's only part in it is `after_step`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bakeoff.config import ProtocolConfig
from bakeoff.data.batches import epoch_batches
from bakeoff.data.tokens import Tokens, lengths_of
from bakeoff.errors import BakeoffError
from bakeoff.measure import Clocks
from bakeoff.methods import Method
from bakeoff.model import Base, trainable
from bakeoff.training.loss import Serve, batch_of, evaluate_loss, mean_loss, target_losses, whole

Report = Callable[[str, dict[str, Any]], None]


class DivergedError(BakeoffError):
    """The loss is not finite any more."""


@dataclass
class Trained:
    """What training leaves: counts for the record; the model holds its best checkpoint."""

    steps: int
    best_step: int
    validation_loss: float
    train_loss: float
    tokens: int
    micro_batch: int  # examples that went through the model at once


def steps_in(examples: int, protocol: ProtocolConfig) -> int:
    """Return how many optimizer steps a run takes."""
    return protocol.epochs * math.ceil(examples / protocol.batch_size)


def rate_factor(step: int, steps: int, protocol: ProtocolConfig) -> float:
    """Return the learning rate's multiplier in step `step` (from 0): a linear warm-up, then the schedule towards 0."""
    warmup = round(protocol.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[protocol.schedule]


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that the device, or on a CPU the machine, has no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Trainer:
    """Trains one adapted model on one order of examples, and keeps the best checkpoint by validation loss."""

    def __init__(
        self,
        base: Base,
        adapted: nn.Module,
        method: Method,
        protocol: ProtocolConfig,
        seed: int,
        report: Report,
        serve: Mapping[str, Serve] | None = None,  # by split
    ):
        self.base, self.adapted, self.method, self.protocol = base, adapted, method, protocol
        self.seed, self.report = seed, report
        self.serve = {"train": whole, "validation": whole, **(serve or {})}
        self.weights = trainable(adapted)
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=method.learning_rate, weight_decay=protocol.weight_decay, fused=True
        )
        self.micro_batch = protocol.batch_size
        self.clocks = Clocks()
        self.best: tuple[float, int, dict[str, torch.Tensor]] = (math.inf, 0, {})

    def train(self, train: Sequence[Tokens], validation: Sequence[Tokens]) -> Trained:
        """Train over all epochs; on return the model holds the weights of the best validation."""
        steps = steps_in(len(train), self.protocol)
        lengths = lengths_of(train)
        totals = lengths.totals
        step = tokens = 0
        epoch_loss = 0.0
        self._validate(validation, 0, 0.0, None)
        for epoch in range(self.protocol.epochs):
            total, epoch_targets = 0.0, 0
            batches = epoch_batches(totals, self.protocol.batch_size, self.seed, epoch)
            for position, members in enumerate(batches, start=1):
                with self.clocks.phase("train"):
                    total += self._step(train, members, step, steps)
                step += 1
                tokens += int((totals[members] - 1).sum())
                epoch_targets += int(lengths.targets[members].sum())
                self._progress(step, steps, tokens, total / epoch_targets)
                last = position == len(batches)
                if last or (self.protocol.evaluate_every and step % self.protocol.evaluate_every == 0):
                    epoch_loss = total / epoch_targets
                    self._validate(validation, step, epoch + position / len(batches), epoch_loss)
        loss, best_step, weights = self.best
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(weights[name])
        return Trained(steps, best_step, loss, epoch_loss, tokens, self.micro_batch)

    def _step(self, train: Sequence[Tokens], members: Sequence[int], step: int, steps: int) -> float:
        """Take one optimizer step and return the batch's summed loss."""
        rate = self.method.learning_rate * rate_factor(step, steps, self.protocol)
        self.optimizer.param_groups[0]["lr"] = rate
        loss = self._backward(train, members)
        if self.protocol.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights.values(), self.protocol.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.after_step(self.adapted, step + 1)
        return loss

    def _backward(self, train: Sequence[Tokens], members: Sequence[int]) -> float:
        """Compute the gradients of the batch's mean loss and return its sum; parts are halved where memory runs out."""
        while True:
            try:
                return self._backward_in_parts(train, members)
            except RuntimeError as error:
                if not out_of_memory(error) or self.micro_batch == 1:
                    raise
            self.optimizer.zero_grad()
            self.micro_batch = (self.micro_batch + 1) // 2

    def _backward_in_parts(self, train: Sequence[Tokens], members: Sequence[int]) -> float:
        """Add up the gradients of parts of the batch: their summed losses, divided once by the batch's targets."""
        rows = [train[i] for i in members]
        targets = sum(len(row.target) for row in rows)
        total = 0.0
        for start in range(0, len(members), self.micro_batch):
            part = members[start : start + self.micro_batch]
            batch = batch_of(self.base, rows[start : start + self.micro_batch])
            losses = target_losses(self.base, self.adapted, batch, self.serve["train"](part))
            (losses.sum() / targets).backward()
            total += float(losses.detach().double().sum())
        return total

    def _validate(self, validation: Sequence[Tokens], step: int, epoch: float, train_loss: float | None) -> None:
        self.report("state", {"state": "validating"})
        with self.clocks.phase("evaluation"):
            results = evaluate_loss(
                self.base, self.adapted, validation, 2 * self.protocol.batch_size, self.serve["validation"]
            )
        loss = mean_loss(results)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the validation loss is {loss} after step {step}. "
                f"Try a lower learning_rate than {self.method.learning_rate}"
            )
        if loss < self.best[0]:
            self.best = (loss, step, {n: w.detach().clone() for n, w in self.weights.items()})
        row = {"step": step, "epoch": epoch, "seconds": self.clocks.seconds.get("train", 0.0), "validation/loss": loss}
        self.report("metrics", row if train_loss is None else {**row, "train/loss": train_loss})
        self.report("state", {"state": "training"})

    def _progress(self, step: int, steps: int, tokens: int, train_loss: float) -> None:
        seconds = self.clocks.seconds["train"]
        self.report(
            "progress",
            {
                "step": step, "steps": steps, "train/loss": train_loss,
                "tokens_per_second": tokens / seconds, "seconds_left": seconds / step * (steps - step),
            },
        )  # fmt: skip

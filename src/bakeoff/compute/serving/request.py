"""What is asked of the serving engine, what it answers, and its own account of a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Finished = Literal["stop", "length", "failed"]


@dataclass(frozen=True)
class Request:
    """A prompt to be continued."""

    prompt: Sequence[int]  # ids without virtual tokens, as Tokens.prompt has them
    max_tokens: int  # of the output, at least 1
    ends: frozenset[int]  # ids that end an output; they are not part of it
    temperature: float = 0.0  # 0: the likeliest token, which is what the bakeoff measured
    top_p: float = 1.0  # share of the probability from which tokens are drawn
    seed: int | None = None  # draws depend on it and on the token's place alone; None: a seed that nobody knows


@dataclass(frozen=True)
class Event:
    """What a step did for a row: a new token, its end, or both.

    `finished` is "stop" where an end id came, "length" where `max_tokens` are written, "failed" where the model could
    not be called (there is not enough memory, for example).
    """

    row: int
    token: int | None
    finished: Finished | None


@dataclass(eq=False)
class Row:
    """A request on its way through the engine."""

    id: int
    entry: Any  # the engine's own entry, which lives as long as its rows
    request: Request
    seed: int
    written: list[int] = field(default_factory=list)
    cancelled: bool = False
    failed: bool = False


# Chooses each row's next token, given its logits (rows, vocabulary); None for a row that has ended.
Choose = Callable[[Sequence[Row], torch.Tensor], list[int | None]]

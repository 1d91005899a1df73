"""The batches of steps, the next one made while an accelerator computes: its rows are read and on their way to it."""

from collections.abc import Sequence
from functools import cached_property

from bakeoff.compute.model.base import Base
from bakeoff.compute.training.batches import Batch, parts
from bakeoff.compute.training.loss import batch_of
from bakeoff.data.token_file import lengths_of
from bakeoff.data.tokens import Lengths, Tokens

# Parts of a batch that go through the model one after the other: of each this process's share, and whether it counts.
Made = list[tuple[slice, Batch, bool]]


class Ahead:
    """Makes the parts of batches of `rows`: at most `most_rows` and `most_tokens` padded positions in each.

    On a processor nothing is made ahead, since it would only be made by the processor that computes.
    """

    def __init__(self, base: Base, rows: Sequence[Tokens]):
        self.base, self.rows = base, rows
        self.known: tuple[object, ...] = ()
        self.made: Made = []

    @cached_property
    def lengths(self) -> Lengths:
        """The lengths of the rows."""
        return lengths_of(self.rows)

    def take(self, members: Sequence[int], most_rows: int, most_tokens: int | None) -> Made:
        """Return the parts of the batch of these rows, which may have been made ahead."""
        same = self.known == (tuple(members), most_rows, most_tokens)
        made = self.made if same else self.make(members, most_rows, most_tokens)
        self.known, self.made = (), []
        return made

    def prepare(self, members: Sequence[int], most_rows: int, most_tokens: int | None) -> None:
        """Make the parts of the next batch ahead; none if there are no members."""
        if members and self.base.device.type != "cpu":
            self.made = self.make(members, most_rows, most_tokens)
            self.known = (tuple(members), most_rows, most_tokens)

    def make(self, members: Sequence[int], most_rows: int, most_tokens: int | None) -> Made:
        """Make the parts of a batch."""
        rows = [self.rows[i] for i in members]
        slices = parts([len(row) for row in rows], most_rows, most_tokens, self.base.team.size)
        return [(part, *self.share(rows[part])) for part in slices]

    def share(self, rows: Sequence[Tokens]) -> tuple[Batch, bool]:
        """Return this process's share of some rows as a batch; if there is none, a row that does not count."""
        own = [rows[i] for i in self.base.team.share(len(rows))]
        return batch_of(self.base, own or rows[:1]), bool(own)

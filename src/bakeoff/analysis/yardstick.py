"""The score that entries are ranked by, and how a verdict writes its values."""

from dataclasses import dataclass

from bakeoff.store.results_document import Difference, Pair, interval_of


@dataclass(frozen=True)
class Yardstick:
    """The score that entries are ranked by; a `bounded` one, from 0 to 1, is shown in points (hundredths).

    `unit` is what the bootstrap resamples: documents, or groups of them. `worth` is the difference that the user calls
    too small to matter, as the score is in the records.
    """

    name: str = "rougeL"
    heading: str = "ROUGE-L"
    bounded: bool = True
    unit: str = "documents"
    worth: float | None = None

    @property
    def metric(self) -> str:
        """The name of the score in the records."""
        return f"test/{self.name}"

    def shown(self, value: float) -> str:
        """Return a score or difference as a verdict shows it."""
        return f"{100 * value:z.1f}" if self.bounded else f"{value:z.3g}"

    def points(self, value: float) -> str:
        """Return a difference with its unit."""
        return f"{self.shown(value)} points" if self.bounded else self.shown(value)

    def detected(self, gap: float) -> str:
        """Return the end of a sentence on the gap that is found with 80 % power; no gap is larger than a score."""
        if self.bounded and gap > 1:
            return f"not even a true gap of {self.points(1)}, the largest possible one, is detected with 80 % power"
        return f"a true gap of {self.points(gap)} is detected with 80 % power"

    def in_brackets(self, span: tuple[float, float] | None) -> str:
        """Return a 95 % interval in brackets, to follow its value; empty if there is none."""
        return "" if span is None else f" (95 % interval {self.shown(span[0])} to {self.shown(span[1])})"

    def gap(self, pair: Difference) -> str:
        """Return a difference with its interval."""
        span = interval_of(pair)
        return f"{self.points(pair.difference)}{self.in_brackets(span)}"

    def inner_gap(self, pair: Pair) -> str:
        """Return a difference with its interval, without brackets of its own."""
        span = interval_of(pair)
        text = self.points(pair.difference)
        text += "" if span is None else f", 95 % interval {self.shown(span[0])} to {self.shown(span[1])}"
        # A pair's own interval may leave out zero where all pairs together do not allow the claim.
        alone = span is not None and not span[0] <= 0 <= span[1]
        return f"{text}; not significant after correction for all pairs" if alone and not pair.different else text

"""Kinds of simulated bakeoffs for benchmarks/verdict.py, in groups that `--designs` names."""

from collections.abc import Sequence
from dataclasses import dataclass

from bakeoff.analysis.pairs import LOSS
from bakeoff.analysis.yardstick import Yardstick

METRIC = Yardstick().metric
POINTS = 0.0375  # standard deviation of the latent score that is one point of ROUGE


@dataclass(frozen=True)
class Design:
    """One kind of bakeoff: each entry's number of seeds, source documents, and how much seeds matter.

    `points` is the standard deviation of seeds' effects in points of ROUGE (of collapsing ones the drop), `times` what
    each entry's is multiplied by, `laws` how each entry's are distributed. `rows` says how many rows a document has.
    `scores` are usual, an exact match that is `rare`, or `heavy` losses; only usual ones are measured on both metrics,
    and those of many entries, of which simulations are long, on ROUGE.
    """

    seeds: tuple[int, ...]
    documents: int
    points: float
    simulations: int
    times: tuple[float, ...] = ()
    laws: tuple[str, ...] = ()
    rows: str = "1 to 3"
    scores: str = "usual"
    whole: bool = False  # measured too: an entry against itself, power at the printed gap, reruns
    looks: tuple[int, ...] = ()  # of seeds in rounds; `seeds` are then only as many as there are entries
    gaps: tuple[float, ...] = ()  # how far one entry is ahead, in gaps that five seeds print
    judge: tuple[float, ...] = ()  # people's labels, how a judge agrees with them (0 to 1), and its bias
    grid: tuple[int, int] = (0, 0)  # tasks and bases; `points` is then how much an entry's true score varies over them

    @property
    def spreads(self) -> tuple[float, ...]:
        """Each entry's spread of seeds, of the latent score."""
        return tuple(self.points * POINTS * times for times in self.times or (1,) * len(self.seeds))

    @property
    def metrics(self) -> dict[str, float]:
        """What is measured, with the entries' common mean."""
        every = {METRIC: 0.03 if self.scores == "rare" else 0.26, LOSS: 3.0}
        dropped = {"rare": LOSS, "heavy": METRIC}.get(self.scores, LOSS if len(self.seeds) > 6 else None)
        return {metric: mean for metric, mean in every.items() if metric != dropped}

    @property
    def loss_scale(self) -> float:
        """Of the latent score in a loss's exponent."""
        return 1.65 if self.scores == "heavy" else 0.5

    @property
    def tokens(self) -> tuple[float, float, float]:
        """Of the log-normal token counts: location, own spread, lean on the document."""
        return (2.4, 1.0, 0.2) if self.scores == "heavy" else (2.4, 0.4, 0.2)

    @property
    def law(self) -> tuple[str, ...]:
        """How each entry's seeds are distributed."""
        return self.laws or ("normal",) * len(self.seeds)

    def of(self, entries: Sequence[int]) -> "Design":
        """Return the design for entries chosen from this one's, some perhaps twice."""
        seeds, times = [self.seeds[i] for i in entries], [(self.times or (1,) * len(self.seeds))[i] for i in entries]
        laws = tuple(self.law[i] for i in entries)
        return Design(
            tuple(seeds), self.documents, self.points, self.simulations, tuple(times), laws, self.rows, self.scores
        )


def designs(simulations: int) -> dict[str, list[Design]]:
    """Return every design by group; the longer its simulations, the fewer of them."""
    many, twice, half, quarter = (round(share * simulations) for share in (4, 2, 0.5, 0.25))
    return {
        "usual": usual(round(0.75 * simulations)),
        "entries": [
            *(Design((seeds,) * 2, 200, 2.0, many) for seeds in (2, 3)),
            *(Design((seeds,) * 3, 200, 2.0, twice) for seeds in (2, 3)),
            *(Design((seeds,) * 6, 200, 2.0, simulations) for seeds in (2, 3)),
            *(Design((seeds,) * 12, 200, 2.0, simulations) for seeds in (2, 3, 5)),
            Design((3,) * 12, 1000, 0.8, simulations),
            *(Design((seeds,) * 24, 200, 2.0, half) for seeds in (2, 3)),
            Design((8,) * 4, 200, 2.0, simulations),
            Design((8,) * 12, 200, 2.0, quarter),
        ],
        "unequal": [
            *(Design(seeds, 200, 2.0, twice) for seeds in ((5, 3, 2, 1), (3, 3, 1, 1), (2, 2, 5, 5), (8, 2, 2, 2))),
            *(Design(seeds, 200, 2.0, many) for seeds in ((1, 5), (2, 8))),
        ],
        "noisy": noisy(simulations),
        "rounds": rounds(simulations),
        "tasks": tasks(simulations),
        "preferences": preferences(simulations),
        "laws": [
            Design((3,) * 4, 200, 2.0, simulations, laws=("skewed",) * 4),
            Design((3,) * 4, 200, 8.0, simulations, laws=("collapsing",) * 4),
            Design((3,) * 4, 200, 8.0, simulations, (1.0, 0.05, 0.05, 0.05), ("collapsing", *("normal",) * 3)),
        ],
        "documents": [
            Design((3,) * 4, 40, 0.8, simulations),
            *(Design((3,) * 4, documents, 0.8, simulations, rows="1 to 30") for documents in (10, 40)),
            Design((3,) * 4, 100, 0.8, simulations, rows="Zipf"),
            *(Design((1,) * 4, documents, 0.0, simulations, scores="rare") for documents in (40, 200)),
            *(Design((3,) * 4, documents, 0.8, simulations, scores="heavy") for documents in (40, 200, 1000)),
        ],
    }  # fmt: skip


def usual(simulations: int) -> list[Design]:
    """Return designs of four entries, with and without an effect of seeds; all rates are measured of these."""
    return [
        Design((seeds,) * 4, documents, points, simulations, whole=True)
        for seeds in (1, 3, 5)
        for points in (0.0, 0.8)
        for documents in (100, 1000)
    ]


def rounds(simulations: int) -> list[Design]:
    """Return designs with seeds in rounds; about as many simulations of each gap."""
    few, five, eight = round(0.4 * simulations), (3, 4, 5), (3, 4, 5, 6, 8)
    gaps = (0.0, 0.5, 1.0, 2.0)
    return [
        *(Design((3,) * 4, n, 0.8, few, looks=looks, gaps=gaps) for looks in (five, eight) for n in (200, 1000)),
        *(Design((3,) * 8, 1000, 0.8, round(few / 2), looks=looks, gaps=gaps) for looks in (five, eight)),
        Design((3,) * 12, 1000, 0.8, round(few / 2), looks=eight, gaps=(0.0,)),
        Design((3,) * 4, 200, 0.8, few, (5.0, 1.0, 1.0, 1.0), looks=eight, gaps=(0.0,)),
        Design((3,) * 4, 200, 2.0, few, laws=("skewed",) * 4, looks=eight, gaps=(0.0,)),
        Design((2,) * 4, 200, 2.0, few, looks=(2, *eight), gaps=(0.0,)),
    ]


def preferences(simulations: int) -> list[Design]:
    """Return designs of tastings with a judge: labels, documents, how good it is, and seeds."""
    judges = ((0.6, 0.0), (0.6, 0.3), (0.85, 0.3), (0.3, 0.3))
    sizes = ((20, 200), (50, 200), (50, 1000), (200, 1000))
    return [
        *(Design((1, 1), n, 0.0, 2 * simulations, judge=(labels, *judge)) for labels, n in sizes for judge in judges),
        *(Design((seeds,) * 2, 600, points, 2 * simulations, judge=(80, 0.7, 0.3))
          for seeds in (3, 5) for points in (0.0, 0.1, 0.25)),
    ]  # fmt: skip


def tasks(simulations: int) -> list[Design]:
    """Return designs of several tasks and bases, over which entries vary not at all, as within a task, or more."""
    found = []
    for grid in ((3, 1), (3, 2), (5, 1), (5, 2), (8, 1), (12, 1), (5, 3), (8, 4)):
        for entries, count in ((2, 2 * simulations), (4, 2 * simulations), (8, simulations)):
            found += [Design((1,) * entries, 0, spread, count, grid=grid) for spread in (0.0, 1.0, 3.0)]
        found.append(Design((1,) * 4, 0, 1.0, 2 * simulations, (4.0, 1.0, 1.0, 1.0), grid=grid))
        found.append(Design((1,) * 4, 0, 2.0, 2 * simulations, laws=("heavy",) * 4, grid=grid))
    return found


def noisy(simulations: int) -> list[Design]:
    """Return designs in which one entry's seeds vary far more than the others', or all differ."""
    many, twice = 4 * simulations, 2 * simulations
    uneven = (0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1, 1.4, 1.9, 2.6, 3.6, 5.0)
    found = []
    for seeds in (2, 3):
        for times, points in ((5.0, 0.8), (25.0, 0.2)):
            for entries, count in ((2, many), (4, twice), (12, simulations)):
                found.append(Design((seeds,) * entries, 200, points, count, (times, *(1.0,) * (entries - 1))))
    return [*found, Design((3,) * 12, 200, 1.0, simulations, uneven)]

"""What an entry's seeds show: how much they vary, alone, in a pair, and together with all entries' seeds. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.special import chdtri

ROUNDING = 1e-9  # relative


@dataclass(frozen=True)
class SeedSpread:
    """What an entry's seeds show: the variance `between` them of the entry's mean, `freedom` degrees of it (0: one
    seed), and the part of it, `within`, that comes from seeds meeting documents and is in the document draws already.
    """

    between: float
    within: float
    freedom: int

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return self.freedom + 1

    @property
    def likely(self) -> float:
        """`between`, made median-unbiased: a variance of three values is below the true one in 63 of 100 cases."""
        return self.between * self.freedom / float(chdtri(self.freedom, 0.5)) if self.freedom else 0.0


def pooled(spreads: Sequence[SeedSpread]) -> SeedSpread:
    """Return what all entries' seeds show together: the spread of one seed's mean, weighted by its freedom."""
    freedom = sum(s.freedom for s in spreads)
    if not freedom:
        return SeedSpread(0.0, 0.0, 0)
    parts = [(s.freedom * s.seeds / freedom, s) for s in spreads]
    return SeedSpread(sum(k * s.between for k, s in parts), sum(k * s.within for k, s in parts), freedom)


def with_floor(spreads: Sequence[SeedSpread], pool: SeedSpread) -> tuple[SeedSpread, ...]:
    """Return a pair's seed spreads, raised so that together they are not smaller than the `pool` of all entries' seeds.

    Among many pairs, the seeds of some agree by chance, and an entry with one seed shows no spread at all. A pair with
    a larger spread than the pool keeps its own. Since small spreads no longer count, the kept ones are too large on
    average; for this they get one degree of freedom more if there are other entries in the pool, and more than two
    seeds. Simulated in docs/verdict.md.
    """
    if not pool.freedom:
        return tuple(spreads)
    own = sum(s.between - s.within for s in spreads)
    between = pool.between * sum(1 / s.seeds for s in spreads)
    within = sum(s.within if s.freedom else pool.within for s in spreads)
    if between - within > own + ROUNDING * between:  # two entries of equal seeds are their own pool
        return (SeedSpread(between, within, pool.freedom),)
    further = min(1, pool.freedom - sum(s.freedom for s in spreads))
    return tuple(replace(s, freedom=s.freedom + further) if s.freedom > 1 else s for s in spreads)


def coverage(spreads: Sequence[SeedSpread]) -> str:
    """Return "documents and seeds", "documents" if all have one seed, or "documents and some seeds" if some have one.

    "documents and two seeds" if nothing has more than two: a spread of two values is hardly known.
    """
    freedoms = [spread.freedom for spread in spreads]
    if all(freedoms):
        return "documents and two seeds" if max(freedoms, default=0) == 1 else "documents and seeds"
    return "documents and some seeds" if any(freedoms) else "documents"

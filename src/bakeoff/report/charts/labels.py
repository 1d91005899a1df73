"""Places names beside points, or in a column, so that they cover neither each other nor the points."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]
LETTER, LINE = 6.4, 13.0  # a letter's mean width and a line's height at 12 pixels
GAP = 9.0


def place(
    points: Sequence[tuple[float, float]], names: Sequence[str], width: float, others: Sequence[Box] = ()
) -> list[tuple[float, float] | None]:
    """Return for each point (pixels, y downward) the shift to its name's middle, or None if there is no room for it.

    Right of a point is tried first, then left, above, below, and so on further out. A place is skipped if it is outside
    of `width`, or covers a point, a placed name or one of the `others`.
    """
    taken: list[Box] = [*others, *((x - 6, y - 6, x + 6, y + 6) for x, y in points)]
    shifts: list[tuple[float, float] | None] = []
    for (x, y), name in zip(points, names, strict=True):
        half = LETTER * len(name) / 2
        shift = next((s for s in candidates(half) if fits(box(x, y, s, half), taken, width)), None)
        if shift is not None:
            taken.append(box(x, y, shift, half))
        shifts.append(shift)
    return shifts


def column(heights: Sequence[float], most: float) -> list[float]:
    """Return the middles (pixels, downward, of at most `most`) of lines in a column, each as near its height as can be.

    Lines that would overlap are spread evenly about the mean of their heights (isotonic regression: pool adjacent
    violators), in the order of their heights.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    pools: list[tuple[float, int]] = []  # mean of what their heights are without the lines above, and count
    for above, i in enumerate(order):
        pools.append((heights[i] - above * LINE, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (mean, count), (low, more) = pools.pop(), pools.pop()
            pools.append(((mean * count + low * more) / (count + more), count + more))
    free = most - LINE * (len(heights) - 1)  # what the uppermost line can be moved by
    means = [min(max(mean, 0.0), max(free, 0.0)) for mean, count in pools for _ in range(count)]
    found = {i: means[above] + above * LINE for above, i in enumerate(order)}
    return [found[i] for i in range(len(heights))]


def candidates(half: float) -> list[tuple[float, float]]:
    """Return shifts of a name of half-width `half`, the best first."""
    near = [(side * (GAP + half), dy) for dy in (-5, 5, -LINE, LINE) for side in (1, -1)]
    far = [(side * half * share, dy) for dy in (-18, 18, -32, 32, -46, 46) for side in (1, -1) for share in (0, 1, 1.6)]
    return near + far


def box(x: float, y: float, shift: tuple[float, float], half: float) -> Box:
    """Return the box that a name fills."""
    middle, line = x + shift[0], y + shift[1]
    return (middle - half, line - LINE / 2, middle + half, line + LINE / 2)


def fits(wanted: Box, taken: Sequence[Box], width: float) -> bool:
    """Return whether a box is inside, and covers nothing that is taken."""
    left, top, right, bottom = wanted
    return left >= 0 and right <= width and not any(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in taken
    )  # fmt: skip

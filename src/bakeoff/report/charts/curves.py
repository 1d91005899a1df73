"""Train and validation loss of every run: one panel per entry with the same axes, and rings at kept checkpoints."""

import math
from collections.abc import Sequence

import altair as alt

from bakeoff.analysis.columns import counted
from bakeoff.errors import listed
from bakeoff.report.charts.drawing import INK, TIP, Figure, Point, data, draw, heading, hue
from bakeoff.store.results_document import ResultsDocument, ResultsRow

WIDTH, HEIGHT = 270, 190
DOTTED = 30  # validations of a run up to which each has a dot to point at
SEEDS = 8  # lines of an entry that are drawn
SPLITS = ("train", "validation")
DRAWN = 80  # points of a line at most; the figure's file has them all


def curves(rows: Sequence[Point], results: ResultsDocument) -> list[Figure]:
    """Return a figure for each entry that has validated.

    `rows` have entry, run, step, epoch, train and validation (losses, None if not measured) and kept, which is true for
    the kept checkpoint.
    """
    losses = sorted(row[split] for row in rows for split in SPLITS if row[split] is not None)
    if not losses:
        return []
    # Steps that went far off would press every other curve flat; the axis ends where most of the story does.
    span = [losses[0], min(losses[-1], 3 * losses[len(losses) // 2])]
    epochs = math.ceil(max(row["epoch"] for row in rows))
    figures = []
    for number, (name, row) in enumerate(results.entries.items()):
        own = [{k: v for k, v in r.items() if k != "entry"} for r in rows if r["entry"] == name]
        kept = [r for r in own if r["kept"]]
        if not kept:
            continue
        lowest = min(r["validation"] for r in kept)
        at = listed([f"step {r['step']:,}" for r in kept])
        label = f"Loss of {name} by epoch; lowest validation loss {lowest:.3f}; kept checkpoints: {at}"
        note, bad = remark(row, lowest, len({r["run"] for r in own}))
        runs = list(dict.fromkeys(r["run"] for r in own))
        drawn = thinned([r for r in own if r["run"] in runs[:SEEDS]])
        svg = chart(drawn, number, span, epochs, heading(name, note, bad))
        title = f"Loss curves of {name}"
        notes = cut_note(own, span[1])
        if len(runs) > SEEDS:
            notes += (f"The first {SEEDS} of {len(runs)} seeds are drawn",)
        figures.append(Figure(f"curves-{number + 1}", title, label, svg, own, number, notes, drawn))
    return figures


def remark(row: ResultsRow, lowest: float, runs: int) -> tuple[str, bool]:
    """Return what a curve's shape means for its entry, and whether that is bad."""
    if row.improved is False:
        return "training never improved on its start", True
    if row.converged is False:
        return "not converged: loss was still falling", True
    seeds = f" in {counted(runs, 'seed')}" if runs > 1 else ""
    return f"lowest validation loss {lowest:.3f}{seeds}", False


def cut_note(rows: Sequence[Point], top: float) -> tuple[str, ...]:
    """Return a note about losses above the axis, which are drawn at its end; empty if there are none."""
    above = [loss for row in rows for split in SPLITS if (loss := row[split]) is not None and loss > top]
    if not above:
        return ()
    return (f"Losses above {top:.2f}, the highest {max(above):.2f}, are drawn at the axis's end",)


def thinned(rows: Sequence[Point]) -> list[Point]:
    """Return only as many rows of each run as can be drawn; that of the kept checkpoint always stays."""
    runs: dict[str, list[Point]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    stays = [(own, math.ceil(len(own) / DRAWN)) for own in runs.values()]
    return [row for own, stride in stays for i, row in enumerate(own) if i % stride == 0 or row["kept"]]


def chart(rows: list[Point], number: int, span: list[float], epochs: int, title: alt.TitleParams) -> str:
    """Return one panel."""
    ticks = list(range(0, epochs + 1, math.ceil(epochs / 6) or 1))
    y = alt.Y("loss:Q", title="nats per target token", scale=alt.Scale(domain=span, clamp=True, nice=False))
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=ticks, format="d"), scale=alt.Scale(domain=[0, epochs]))
    colour = alt.ColorValue(hue(number))
    lines = [
        {"run": r["run"], "epoch": r["epoch"], "split": split, "loss": r[split]}
        for split in SPLITS for r in rows if r[split] is not None
    ]  # fmt: skip
    validated = [{**r, "loss": r["validation"]} for r in rows if r["validation"] is not None]
    few = len(validated) <= DOTTED * len({r["run"] for r in rows})
    marked = [{**r, "tip": tip(r)} for r in validated]
    layers = [
        data("lines").mark_line(strokeWidth=2, aria=False).encode(
            x=x, y=y, color=colour, detail=alt.Detail("run:N"), strokeDash=dashes()
        ),
        data("dots").mark_point(filled=True, size=26, opacity=1).encode(x=x, y=y, color=colour, description=TIP),
        data("rings").mark_point(size=120, strokeWidth=2, filled=False, color=INK).encode(
            x=x, y=y, description=TIP
        ),
    ]  # fmt: skip
    drawn = {"lines": lines, "dots": marked if few else [], "rings": [r for r in marked if r["kept"]]}
    return draw(layers, drawn, (WIDTH, HEIGHT), title)


def tip(row: Point) -> str:
    """Return the text for a validation's mark."""
    kept = "kept checkpoint: " if row["kept"] else ""
    return f"{kept}validation loss {row['validation']:.3f} at step {row['step']:,} (epoch {row['epoch']:.2f})"


def dashes() -> alt.StrokeDash:
    """Return a full line for validation and a dashed one for train; the page explains them."""
    scale = alt.Scale(domain=["validation", "train"], range=[[1, 0], [4, 3]])
    return alt.StrokeDash("split:N", scale=scale, legend=None)

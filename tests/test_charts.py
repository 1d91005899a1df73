"""Figures: colours that can be told apart, names that do not cover each other, the Pareto line, what is thinned out."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bakeoff.report.charts.curves import DRAWN, SEEDS, curves
from bakeoff.report.charts.drawing import DARK, LIGHT, Figure, heading, on_paper
from bakeoff.report.charts.labels import LETTER, LINE, column, place
from bakeoff.report.charts.pairs import BRIEF, ROWS, pair_figures
from bakeoff.report.charts.quality import costs, pareto, qualities, quality_cost
from bakeoff.report.charts.tasks import chart as forest_chart
from bakeoff.report.figures import draw_figures
from bakeoff.report.source import Source
from bakeoff.report.view import MOST, in_view, view_note
from bakeoff.store.results_document import ResultsDocument

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": numpy.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
LINEAR_TO_XYZ = numpy.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = numpy.array([0.9505, 1.0, 1.089])


def linear(colour: str) -> numpy.ndarray:
    values = numpy.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return numpy.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: numpy.ndarray) -> numpy.ndarray:
    ratio = LINEAR_TO_XYZ @ numpy.clip(rgb, 0, 1) / WHITE
    x, y, z = numpy.where(ratio > 0.008856, numpy.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    low, high = sorted(LINEAR_TO_XYZ[1] @ linear(c) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_seven_entries_are_told_apart(theme, kind):
    seen = [lab(BLINDNESS[kind] @ linear(colour)) for colour in theme[:7]]
    nearest = min(numpy.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 12  # 2 can just be told apart where they touch


@pytest.mark.parametrize(("theme", "paper"), [(LIGHT, "#ffffff"), (DARK, "#14171a")], ids=["light", "dark"])
def test_colours_stand_out_from_the_page(theme, paper):
    assert min(contrast(colour, paper) for colour in theme[:7]) > 2.5
    assert len(set(theme)) == len(theme)


def test_names_beside_points_do_not_cover_each_other():
    points = [(40 + 9 * i, 100 + 7 * i) for i in range(8)] + [(500, 20), (512, 24)]
    names = [f"entry_{i}" for i in range(10)]
    boxes = []
    for (x, y), (dx, dy), name in zip(points, place(points, names, 520), names, strict=True):
        half = LETTER * len(name) / 2
        boxes.append((x + dx - half, y + dy - LINE / 2, x + dx + half, y + dy + LINE / 2))
    assert all(left >= 0 and right <= 520 for left, _, right, _ in boxes)
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_name_without_room_covers_no_other():
    shifts = place([(300, 100)] * 30, [f"entry_{i}" for i in range(30)], 520)
    boxes = [(dx, dy) for dx, dy in filter(None, shifts)]
    assert 1 < len(set(boxes)) == len(boxes) < 30


@given(st.lists(st.floats(0, 260), min_size=1, max_size=20))
def test_names_in_a_column_keep_their_order_and_are_as_near_as_they_can_be(heights):
    found = column(heights, 260)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert all(found[b] - found[a] >= LINE - 1e-6 for a, b in itertools.pairwise(order))
    assert all(-1e-6 <= at <= 260 + 1e-6 for at in found)
    if all(heights[b] - heights[a] >= LINE for a, b in itertools.pairwise(order)):
        assert found == pytest.approx(heights, abs=1e-6)
    worst = sum((at - height) ** 2 for at, height in zip(found, heights, strict=True))
    for moved in (-1.0, 1.0):  # no block of touching names is nearer to its heights a little up or down
        for first in range(len(order)):
            for last in range(first, len(order)):
                other = list(found)
                for i in order[first : last + 1]:
                    other[i] += moved
                apart = all(other[b] - other[a] >= LINE for a, b in itertools.pairwise(order))
                if apart and min(other) >= 0 and max(other) <= 260:
                    assert sum((a - h) ** 2 for a, h in zip(other, heights, strict=True)) >= worst - 1e-6


def test_the_line_joins_what_no_other_beats_on_both():
    def front(lower):
        points = [("a", 1, 0.2), ("b", 2, 0.1), ("c", 3, 0.4), ("d", 3, 0.3), ("e", 9, 0.4)]
        return [p["entry"] for p in pareto([{"entry": n, "cost": c, "quality": q} for n, c, q in points], lower)]

    assert front(lower=False) == ["a", "c"]
    assert front(lower=True) == ["a", "b"]


def test_figures_hold_their_data_and_stand_alone_as_files(shared):
    source = Source.of([shared[1].folder], shared[1].document)
    figures = {figure.name: figure for figure in draw_figures(source).all()}
    lines = figures["loss-against-trainable"].csv.splitlines()
    assert lines[0] == "entry,quality,low,high,cost"
    loss = shared[1].entries["lora"].metrics["test/loss"]
    assert f"lora,{loss.mean},{loss.low},{loss.high},{shared[1].entries['lora'].trainable_parameters}" in lines
    for figure in figures.values():
        ElementTree.fromstring(figure.file)
        assert "var(" not in figure.file
        assert "currentColor" not in figure.file
        for entry in shared[1].entries if figure.name.startswith(("cost", "rouge", "loss")) else ():
            assert entry in figure.label
    kept = [line for line in figures["curves-3"].csv.splitlines() if line.endswith("True")]
    result = shared[1].folder.run(shared[1].entries["lora"].runs[0]).result()
    assert [int(line.split(",")[1]) for line in kept] == [result.best_step]


def with_entries(shared, *names, **changes):
    """Return results whose entries have these names, and are otherwise the shared bakeoff's LoRA with changes."""
    row = shared[1].entries["lora"].model_copy(update=changes)
    return shared[1].document.model_copy(update={"entries": dict.fromkeys(names, row)})


def test_long_curves_are_thinned_in_the_drawing_and_whole_in_the_data(shared):
    rows = [
        {
            "entry": "a",
            "run": "r",
            "step": i,
            "epoch": i / 1e3,
            "train": 2.0,
            "validation": 3 - i / 1e3,
            "kept": i == 999,
        }
        for i in range(1000)
    ]
    (figure,) = curves(rows, with_entries(shared, "a", improved=True, converged=False))
    assert len(figure.csv.splitlines()) == 1 + 1000
    assert len(figure.short_csv.splitlines()) <= 1 + DRAWN + 1
    assert figure.short_csv.splitlines()[-1].endswith("2.001,True")
    assert max(part.count("L") for part in figure.svg.split('d="')) <= DRAWN
    assert "not converged" in figure.svg


def test_losses_beyond_the_axis_are_told(shared):
    rows = [
        {"entry": name, "run": "r", "step": i, "epoch": i, "train": 2.0, "validation": loss, "kept": i == 1}
        for name, losses in {"calm": (3, 2), "wild": (28.125, 2.5)}.items()
        for i, loss in enumerate(losses)
    ]
    calm, wild = curves(rows, with_entries(shared, "calm", "wild", improved=True, converged=True))
    assert calm.notes == ()
    assert wild.notes == ("Losses above 6.00, the highest 28.12, are drawn at the axis's end",)


def test_many_pairs_are_shown_for_the_best_entry_first(shared):
    names = [f"e{i}" for i in range(7)]
    gap = {"difference": 0.01, "low": -0.01, "high": 0.03, "p_adjusted": 1.0}
    pair = shared[1].document.verdict.pairs[0].model_copy(update=gap)
    pairs = [
        pair.model_copy(update={"first": a, "second": b, "different": a == "e0"})
        for a, b in itertools.combinations(names, 2)
    ]
    assert len(pairs) > BRIEF
    verdict = shared[1].document.verdict.model_copy(update={"best": "e0", "pairs": pairs, "baseline_pairs": []})
    best, everything = pair_figures(verdict)
    assert [len(figure.rows) for figure in (best, everything)] == [6, 21]
    assert best.label.endswith("None is tied.")
    assert "e5 \N{MINUS SIGN} e6" in everything.label.split("Tied: ")[1]


def test_text_in_a_figure_stays_text():
    assert on_paper('<svg fill="var(--entry-9)"/>') == f'<svg fill="{LIGHT[1]}"/>'
    rows = [{"entry": 'a,"b"\n<i>', "quality": 1.0}]
    figure = Figure("n", "t", "l", "<svg />", rows)
    assert figure.csv == 'entry,quality\n"a,""b""\n<i>",1.0\n'
    assert json.loads(json.dumps(figure.rows)) == rows


def many(document: ResultsDocument, count: int) -> ResultsDocument:
    """Return results of so many entries, one after the other a little worse, and every two of them a pair."""
    found = document.row()
    (old, row), *_ = found["entries"].items()
    names = [f"entry_{i:03d}" for i in range(count)]
    found["entries"] = {
        name: row | {"metrics": row["metrics"] | {"test/rougeL": {"mean": 0.5 - i / 1e3}}}
        for i, name in enumerate(names)
    }
    verdict = found["verdict"]
    verdict |= {"best": names[0], "tied_with_best": [], "recommendations": {"quality": names[0], "size": names[-1]}}
    pair, level = verdict["pairs"][0], verdict["baseline_pairs"][0]
    verdict["pairs"] = [pair | {"first": a, "second": b} for a, b in itertools.combinations(names, 2)]
    verdict["baseline_pairs"] = [
        level | {"first": n, "second": b} for b in ("base", "lead-1", "few-shot-2") for n in names
    ]
    return ResultsDocument.model_validate(found)


def test_no_figure_of_many_entries_is_more_than_a_reader_can_see(shared):
    results = many(shared[1].document, 60)
    view = in_view(results)
    assert len(view.entries) == MOST
    assert {"entry_000", "entry_059"} < view.entries.keys()  # the best, and the one recommended for its size
    assert "entry_058" not in view.entries
    assert len(view.verdict.pairs) == MOST * (MOST - 1) / 2
    assert f"show {MOST} of 60 entries" in view_note(view, "ROUGE-L")
    figures = {figure.name: figure for figure in pair_figures(view.verdict)}
    assert len(figures["differences-pairs-best"].rows) == MOST - 1
    assert all(len(figure.rows) <= ROWS for figure in figures.values())
    assert f"of {MOST * 3} pairs" in figures["differences-baselines"].notes[0]
    for entries in (in_view(many(shared[1].document, MOST)), shared[1].document):
        assert view_note(entries, "ROUGE-L") == ""


def test_seeds_of_an_entry_are_drawn_as_far_as_they_can_be_told_apart(shared):
    rows = [{"entry": "a", "run": f"r{i}", "step": 1, "epoch": 1.0, "train": 2.0, "validation": 3.0, "kept": True}
            for i in range(30)]  # fmt: skip
    (figure,) = curves(rows, with_entries(shared, "a"))
    assert len(figure.rows) == 30
    assert len(figure.drawn) == SEEDS
    assert f"The first {SEEDS} of 30 seeds are drawn" in figure.notes


def test_what_is_lowest_on_the_loss_axis_is_the_loss_and_not_the_quality(shared):
    results = shared[1].document.model_copy(update={"entries": {"lora": shared[1].entries["lora"]}})
    by_loss = quality_cost(results, qualities(results)[-1], costs(results)[0])
    by_score = quality_cost(results, qualities(results)[0], costs(results)[0])
    assert by_loss.notes[0].startswith("lora has both the lowest cost and the lowest test loss;")
    assert by_score.notes[0].startswith("lora has both the lowest cost and the highest ROUGE-L;")


def test_scores_of_like_names_have_figures_of_their_own(shared):
    measure = shared[1].document.metrics[0]
    measures = [measure.model_copy(update={"name": name}) for name in ("a/b", "a.b", "loss")]
    results = shared[1].document.model_copy(update={"metrics": measures, "primary": "a/b"})
    names = [axis.name for axis in qualities(results)]
    assert len(set(names)) == len(names) == 4
    assert all(name.replace("-", "").isalnum() for name in names)


@pytest.mark.parametrize("low", [-19.6, -0.04, -140.0])
def test_numbers_below_a_forest_do_not_touch(low):
    rows = [{"task": "all tasks", "difference": low / 2, "low": low, "high": low / 4, "kind": "all", "tip": "x"}]
    svg = forest_chart(rows, "difference, %", heading("a - b", "over all: different"))
    ticks = [text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip()[-1:].isdigit()]
    assert 3 <= len(ticks) <= 8, ticks

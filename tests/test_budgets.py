"""The order of entries by tuning budget: expected losses against all choices of trials, and what is said of changes."""

from itertools import combinations

import pytest

from bakeoff.analysis.budgets import budget_note, changes, curves_of, expected_losses, lowest_of
from bakeoff.report.charts.budgets import MOST, budget_figures
from bakeoff.store.results_document import TrialRow, Tuning
from tests.test_verdict import row_of


def tuned(*losses, extension=None, waiting=0):
    """Return the row of an entry whose trials had these losses; None: it failed."""
    trials = [
        TrialRow(trial=i, run=f"r{i}", settings={"learning_rate": i}, validation_loss=loss, steps=9, error=None,
                 status="failed" if loss is None else "done")
        for i, loss in enumerate(losses, 1)
    ]  # fmt: skip
    if extension is not None:
        trials.append(trials[0].model_copy(update={"trial": len(losses) + 1, "validation_loss": extension}))
    tuning = Tuning(label="tuned", chosen=None, edge={}, extended=None, trials=trials, seconds=1.0)
    return row_of().model_copy(update={"tuning": tuning, "trials": len(losses) + waiting})


@pytest.mark.parametrize("losses", [[3.0, 1.0, 2.0], [2.0, 2.0], [5.0, 4.5, 4.75, 9.0, 4.25]])
def test_expected_losses_are_means_over_all_choices_of_trials(losses):
    every = [[min(part) for part in combinations(losses, k)] for k in range(1, len(losses) + 1)]
    assert lowest_of(losses) == pytest.approx([sum(lows) / len(lows) for lows in every])


def test_the_trial_past_an_edge_counts_in_no_budget_and_a_failed_one_as_the_worst():
    assert expected_losses(tuned(3.0, 2.0, extension=1.0)) == [2.5, 2.0]
    assert expected_losses(tuned(3.0, None, 2.0)) == lowest_of([3.0, 3.0, 2.0])
    assert expected_losses(tuned(3.0, 2.0, waiting=1)) == expected_losses(tuned(None, None)) == []
    assert expected_losses(row_of()) == []


def test_where_lines_cross_the_last_budget_before_that_is_told():
    curves = {"lora": lowest_of([5.0, 5.0, 5.0, 1.0]), "ia3": lowest_of([1.9, 1.9, 1.9, 1.9]), "dora": [0.5] * 4}
    ((first, second, k),) = changes(dict(sorted(curves.items(), key=lambda pair: pair[1][-1])))
    assert (first, second) == ("lora", "ia3")
    assert curves["lora"][k - 1] > 1.9 > curves["lora"][k]
    said = budget_note({"dora": curves["dora"], "lora": curves["lora"], "ia3": curves["ia3"]})
    assert said.startswith("1 of 3 pairs changes order: ia3 is ahead of lora with 3 trials and behind it with 4 (1.900")
    assert budget_note({"dora": [1.0, 0.5], "ia3": [2.0, 2.0]}).startswith("No smaller number of trials")


def test_the_figure_draws_the_best_and_its_file_has_all(shared):
    results = shared[1].document
    entries = {f"entry_{i}": tuned(3.0 + i, 2.0 + i / 10, 4.0) for i in range(MOST + 2)}
    (figure,) = budget_figures(results.model_copy(update={"entries": entries}))
    assert len(figure.rows) == 3 * (MOST + 2)
    assert figure.svg.startswith("<svg")
    assert "entry_0" in figure.svg
    assert f"entry_{MOST + 1}" not in figure.svg
    assert next(iter(curves_of(results.model_copy(update={"entries": entries})))) == "entry_0"
    assert budget_figures(results) == []  # nothing was tuned
    assert budget_figures(results.model_copy(update={"entries": {"one": tuned(1.0, 2.0)}})) == []

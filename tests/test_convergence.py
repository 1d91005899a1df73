"""An entry is not converged by the pace of its last stretch, and not because its last validation was the best."""

import pytest

from bakeoff.analysis.convergence import converged, pace
from bakeoff.config.lr_schedule import lr_multiplier
from bakeoff.config.sections import ProtocolConfig
from bakeoff.store.documents import CurveRow

LINEAR = ProtocolConfig(epochs=4, warmup_share=0)


def curve(*losses, every=25):
    return [CurveRow(step=every * i, epoch=0.0, seconds=0.0, validation_loss=loss) for i, loss in enumerate(losses)]


def test_a_curve_that_is_gone_tells_nothing():
    assert pace([], LINEAR, 100) is None


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_loss_that_falls_with_the_learning_rate_has_a_pace_of_one(schedule):
    protocol = ProtocolConfig(epochs=4, warmup_share=0.06, schedule=schedule)
    spent = [sum(lr_multiplier(s, 100, protocol) for s in range(end)) for end in range(0, 101, 25)]
    assert pace(curve(*(4 - part / 100 for part in spent)), protocol, 100) == pytest.approx(1)


def test_a_last_validation_that_is_the_best_is_no_want_of_convergence():
    resting = curve(4, 3, 2.6, 2.51, 2.5)
    falling = curve(4, 3, 2.7, 2.6, 2.5)
    assert converged([resting], LINEAR, 100) is True
    assert converged([falling], LINEAR, 100) is False
    assert converged([resting, resting, falling], LINEAR, 100) is True  # 0.10, 0.10 and 1.04


def test_the_stretch_begins_with_the_validation_before_it_and_losses_are_the_lowest_so_far():
    share = sum(lr_multiplier(s, 90, LINEAR) for s in range(60, 90)) / sum(
        lr_multiplier(s, 90, LINEAR) for s in range(90)
    )
    assert pace(curve(4, 3, 3.4, 2.9, every=30), LINEAR, 90) == pytest.approx(0.1 / 1.1 / share)
    assert pace(curve(4, 3, 3.4, 3.2, every=30), LINEAR, 90) == 0


def test_nothing_is_said_where_nothing_tells():
    assert converged([curve(4, 3, every=100)], LINEAR, 100) is None
    assert converged([curve(4, 5, 5, 5, 5)], LINEAR, 100) is None
    assert converged([], LINEAR, 100) is None

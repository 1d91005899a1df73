"""The next settings to try by those that were tried: Optuna's tree-structured Parzen estimator, asked one at a time.

Nothing is kept between two questions: what was tried is told anew each time, so a search that stopped anywhere resumes
with the settings that it would have tried (Bergstra et al. 2011; Optuna's implementation, MIT licence).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from bakeoff.errors import ConfigError
from bakeoff.tuning.search import Choices, Settings, Span, trial_points

REDRAWS = 20  # of settings that were tried before, as happens in ranges of whole numbers


def check_installed() -> None:
    """Raise ConfigError if Optuna is not there."""
    if find_spec("optuna") is None:
        raise ConfigError("tune.sampler: tpe needs Optuna. Try: pip install 'bakeoff[optuna]', or sampler: halton")


def ask(ranges: Mapping[str, Span], tried: Sequence[tuple[Settings, float | None]], seed: int) -> Settings:
    """Return settings to try next that are not among those `tried`, each with its loss (None: it failed).

    The same arguments give the same settings, with the same version of Optuna. A failure counts as the worst loss.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spans = {name: distribution(span) for name, span in ranges.items()}
    losses = [loss for _, loss in tried if loss is not None]
    worst, known = max(losses, default=0.0), [settings for settings, _ in tried]
    for draw in range(REDRAWS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=1, multivariate=len(ranges) > 1, seed=seed + len(tried) + 1000 * draw
            )
        study = optuna.create_study(sampler=sampler)
        for settings, loss in tried:
            value = worst if loss is None else loss
            study.add_trial(optuna.trial.create_trial(params=settings, distributions=spans, value=value))
        point = study.ask(spans).params
        if point not in known:
            return dict(point)
    return next(p for p in trial_points(ranges, len(tried) + 1, seed) if p not in known)


def distribution(span: Span) -> Any:
    """Return a range as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(span, Choices):
        return CategoricalDistribution(span.values)
    if span.integer:
        return IntDistribution(math.ceil(span.low), math.floor(span.high), log=span.scale == "log")
    return FloatDistribution(span.low, span.high, log=span.scale == "log")

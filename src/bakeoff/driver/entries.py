"""The entries of a plan: which are refused, and what the plan says about each."""

from typing import Any, get_args

from bakeoff.config.config import Config
from bakeoff.config.names import BASELINES
from bakeoff.config.stages import MOST_TRIALS, TRIALS, TuneConfig
from bakeoff.errors import ConfigError, listed
from bakeoff.methods import INSTALLED, Method, method_class
from bakeoff.scoring.baselines import base_in
from bakeoff.store.records import Quantize
from bakeoff.tuning.asking import check_installed
from bakeoff.tuning.entries import Entry, read_entries
from bakeoff.tuning.search import Choices, Span, budget, most_trials


def checked_entries(config: Config, steps: int | None = None) -> dict[str, Entry]:
    """Return the config's entries; raise ConfigError if one cannot be run.

    Where `tune.budget` is set, a run's optimizer `steps` are needed for the number of trials; without them entries have
    the ends of their ranges in place of trials.
    """
    if config.tune and config.tune.sampler == "tpe":
        check_installed()
    entries = read_entries(config, trials_of(config.tune, steps))
    taken = set(entries) & {*BASELINES, *config.baselines, *map(base_in, get_args(Quantize))}
    if taken:
        raise ConfigError(f"entries.{taken.pop()}: this is the name of a baseline. Give the entry another `name:`")
    alike = {name.lower(): name for name in entries}
    for name in entries:
        if alike[name.lower()] != name:
            raise ConfigError(
                f"entries.{name}: differs from {alike[name.lower()]} in upper and lower case only, which some disks "
                f"do not distinguish. Give it another `name:`"
            )
    foreign = [f"entries.{name}: method '{e.method}'" for name, e in entries.items() if e.method not in INSTALLED]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} was registered in this process only, but each run has a process of its own. Try: a package "
            f"with an entry point in the group bakeoff.methods"
        )
    whole = [name for name, entry in entries.items() if not method_class(entry.method).checkpointable]
    if whole and config.protocol.gradient_checkpointing:
        raise ConfigError(
            f"entries.{whole[0]}: {entries[whole[0]].method} cannot be trained with protocol.gradient_checkpointing. "
            f"Try: gradient_checkpointing: false, with a smaller batch_size or max_tokens"
        )
    return entries


def trials_of(tune: TuneConfig | None, steps: int | None) -> int | None:
    """Return how many trials an entry has in runs of so many `steps`; None if that is not known without the steps.

    Raises ConfigError if `tune.budget` holds none.
    """
    if tune is None or tune.budget is None:
        return (tune.trials if tune else None) or TRIALS
    if steps is None:
        return None
    trials = most_trials(tune.budget, steps, tune.halving, MOST_TRIALS)
    if not trials:
        raise ConfigError(
            f"tune.budget: {tune.budget:,} optimizer steps hold no trial, which takes {steps:,}. Try: at least "
            f"{steps}, or fewer epochs or examples"
        )
    return trials


def search_steps(config: Config, steps: int) -> int:
    """Return how many optimizer steps the trials of an entry take, if none fails and no extension is needed."""
    trials = trials_of(config.tune, steps)
    return budget(trials, steps, config.tune.halving) if config.tune and trials else 0


def schedule_findings(schedule: str, methods: dict[str, list[Method]]) -> list[str]:
    """Return what is to be said of entries whose learning rate does not follow the protocol's `schedule`."""
    free = [name for name, group in methods.items() if any(m.optimizer == "schedule_free" for m in group)]
    if not free or schedule == "constant":
        return []
    return [
        f"optimizer: schedule_free ends with an average of its steps, so the learning rate of {listed(free)} stays at "
        f"its peak after the warm-up, whatever protocol.schedule says ({schedule})"
    ]


def choice_findings(entries: dict[str, Entry]) -> list[str]:
    """Return what is to be said of searched words that no trial has, as happens with few trials."""
    return [
        f"entries.{name}.{key}: no trial has {listed(missing)} (trials: {entry.trials}). Try: more trials"
        for name, entry in entries.items() if not entry.asked
        for key, span in entry.ranges.items() if isinstance(span, Choices)
        if (missing := [value for value in span.values if all(value != p[key] for p in entry.trial_points)])
    ]  # fmt: skip


def virtual_tokens(entries: dict[str, Entry]) -> int:
    """Return the number of positions of the context that the largest soft prompt takes."""
    return max(method.virtual_tokens for entry in entries.values() for method in entry.methods())


def span_facts(span: Span) -> dict[str, Any]:
    """Return what the plan says about the range or the choices of a searched field."""
    if isinstance(span, Choices):
        return {"values": [*span.values]}
    return {"low": span.low, "high": span.high, "scale": span.scale}


def entry_plan(entry: Entry, config: Config, steps: int, counts: dict[str, Any], least: int) -> dict[str, Any]:
    """Return what the plan says about one entry.

    `trial_steps` are those of all its trials, if none fails and no extension is needed; the chosen trial is also the
    run of the first seed. `learning_rate` is None if it is searched.
    """
    trials = entry.trials
    return {
        "method": entry.method,
        "steps": steps,
        "tuning": entry.label,
        "trials": trials,
        "trial_steps": search_steps(config, steps) if trials else 0,
        "search": {name: span_facts(span) for name, span in entry.ranges.items()},
        "trial_points": entry.trial_points,
        "learning_rate": None if "learning_rate" in entry.ranges else entry.methods()[0].learning_rate,
        "quantize": entry.quantize,
        "least_bytes": least,
        **counts,
    }

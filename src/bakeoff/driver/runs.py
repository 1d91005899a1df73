"""The runs of a plan. A run's id has a hash of everything that determines its training."""

from dataclasses import replace
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.scoring.baselines import BASE, base_in, takes_model
from bakeoff.store.content_hash import hash_of
from bakeoff.store.records import Quantize, Run
from bakeoff.tuning.entries import Entry
from bakeoff.tuning.search import Settings


def make_runs(
    protocol: ProtocolConfig, baselines: dict[str, Settings], entries: dict[str, Entry], steps: int,
    held_equal: dict[str, Any],
) -> list[Run]:  # fmt: skip
    """Return the runs of the baselines, then every entry's trials and its final runs, one per seed; in rounds, at most.

    The baselines' base is stored as the protocol says; the untouched base is measured in every other way that an entry
    has it, too.
    The settings of a tuned entry's final runs are not known yet: their ids come from its search, and the chosen
    settings are in run.json.
    """
    seeds = range(protocol.seed, protocol.seed + protocol.most_seeds)
    own, seed = protocol.quantize, protocol.seed
    runs = [
        make_run(n, "baseline", n, given, seed, 0, held_equal, own if takes_model(n) else "none")
        for n, given in baselines.items()
    ]
    others = sorted({entry.quantize for entry in entries.values()} - {own})
    runs += [make_run(base_in(other), "baseline", BASE, {}, seed, 0, held_equal, other) for other in others]
    for name, entry in entries.items():
        if entry.trial_points:
            runs += [
                make_trial(entry, i, point, protocol.seed, steps, held_equal)
                for i, point in enumerate(entry.trial_points, 1)
            ]
            search = {"fixed": entry.fixed, "ladder": entry.ladder}  # its hash is in ids
            finals = [
                make_run(name, "entry", entry.method, search, s, steps, held_equal, entry.quantize) for s in seeds
            ]
            runs += [replace(final, settings={}) for final in finals]
        else:
            settings = entry.build().model_dump(mode="json")
            runs += [
                make_run(name, "entry", entry.method, settings, s, steps, held_equal, entry.quantize) for s in seeds
            ]
    return runs


def make_trial(entry: Entry, number: int, point: Settings, seed: int, steps: int, held_equal: dict[str, Any]) -> Run:
    """Return the run that tries one point of an entry's search."""
    settings = entry.build(point).model_dump(mode="json")
    search = hash_of([entry.name, entry.fixed, entry.ladder, seed, held_equal, *packed(entry.quantize)])
    run = make_run(entry.name, "trial", entry.method, settings, seed, steps, held_equal, entry.quantize)
    return replace(run, trial=number, search=search)


def make_run(
    entry: str, kind: Any, method: str, settings: dict[str, Any], seed: int, steps: int, held_equal: dict[str, Any],
    quantize: Quantize = "none",
) -> Run:  # fmt: skip
    """Return a run whose id has a hash of everything that determines its training."""
    content_hash = hash_of([kind, method, settings, seed, held_equal, *packed(quantize)])
    return Run(f"{entry}-{content_hash}", entry, kind, method, settings, seed, steps, quantize=quantize)


def packed(quantize: Quantize) -> list[str]:
    """Return what the hash in a run's id has of the base's storage: nothing if it is as in its files."""
    return [] if quantize == "none" else [quantize]

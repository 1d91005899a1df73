"""How long a plan will take: its amounts of work, multiplied with what a probe measured for each entry."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bakeoff.config.sections import ProtocolConfig
from bakeoff.progress.eta import Forecast
from bakeoff.store.records import Run

NEUTRAL_TOKENS = 1200  # of the neutral text that is read along with the test split


def expected_costs(
    plan: Mapping[str, Any], protocol: ProtocolConfig, probes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return seconds and peak bytes of each entry's runs, its trials among them, and the seconds of all entries.

    `plan` is plan.json's content. An extension of the trials is counted as far as one is likely; baselines, saving and
    the trunk cache, which makes later epochs faster, are not.
    """
    forecast = Forecast([Run(**run) for run in plan["runs"]], plan, protocol)
    entries: dict[str, dict[str, Any]] = {}
    for name, found in probes.items():
        if found.get("error"):
            entries[name] = {"error": found["error"], "seconds": None, "peak_bytes": None}
            continue
        amounts: Counter[str] = Counter()
        for part in forecast.of_entry[name]:
            amounts.update(part.left)  # trials have shares of visits
        rates = phase_seconds(plan, plan["entries"][name]["steps"], found)
        seconds = sum(amounts[phase] * rate for phase, rate in rates.items())
        entries[name] = {"error": None, "seconds": seconds, "peak_bytes": found["peak_bytes"]}
    known = [row["seconds"] for row in entries.values() if row["seconds"] is not None]
    memory = plan["memory_bytes"]
    return {
        "entries": entries,
        "seconds": sum(known) if len(known) == len(entries) else None,
        "too_large": [n for n, r in entries.items() if r["error"] or r["peak_bytes"] > memory],
    }


def phase_seconds(plan: Mapping[str, Any], steps: int, found: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of a step, of a document to generate, or of a visit to another phase.

    A run takes `steps`. The probe measured the longest examples; others are taken to cost as much a token, which is a
    little too much for short ones. A test reads neutral text along, and as many training examples as there are for
    validation. Outputs are taken to be as long as they may.
    """
    counts, test = plan["counts"], plan["data"]["splits"]["test"]
    trained = found["step_seconds"] / found["tokens"]
    read = found["evaluation_seconds"] / found["evaluated_tokens"]
    prefilled = 0.0 if found["reads_targets"] else found["prefill_seconds"] / found["prefill_tokens"]
    written = found["generation_seconds"] / found["generated_tokens"]
    return {
        "loading": found["setup_seconds"] + found["start_seconds"],
        "reloading": found["setup_seconds"],
        "training": trained * counts["train_tokens"] * plan["epochs"] / steps,
        "validating": read * counts["validation_tokens"],
        "testing": read * (counts["test_tokens"] + counts["validation_tokens"] + NEUTRAL_TOKENS),
        # A prompt's reading gives the first token.
        "generating": prefilled * test["prompt_tokens_mean"] + written * (plan["output_tokens"] - 1),
    }

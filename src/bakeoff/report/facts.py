"""The report's plain facts: what was held equal, the data, checks and failures, the environment."""

from typing import Any

from bakeoff.analysis.columns import counted, size
from bakeoff.analysis.twins import storage
from bakeoff.report.baselines import STORED, baseline_lines
from bakeoff.report.plan import split_line
from bakeoff.store.results_document import ResultsDocument

Pairs = list[tuple[str, str]]
CHECKS = {
    "loss_finite": "every loss is a finite number",
    "only_intended_moved": "training changed the weights that it should, and no bit of any other",
    "step0_equals_base": "before the first step a method that starts as the base has exactly the loss of the base "
    "(on a GPU, nearly)",
    "few_steps_skipped": "in fp16, at most a tenth of the steps were skipped because gradients left its range",
    "step0_beats_unigram": "before the first step the validation loss is below the entropy of the target tokens",
    "reloads_to_same_loss": "the saved adapter, loaded onto a fresh base, gives the same loss",
}
LABELS = {
    "fixed": "Not equal: these entries ran at the settings in the config, without trials",
    "off": "Not equal: tuning was off, so each entry ran at its own fixed learning rate",
}


def sections(results: ResultsDocument) -> list[dict[str, Any]]:
    """Return the sections as title, note, pairs of name and value, and points."""
    untuned = {
        label: [n for n, r in results.entries.items() if (t := r.tuning) and t.label == label] for label in LABELS
    }
    notes = [f"{text} ({', '.join(untuned[label])})." for label, text in LABELS.items() if untuned[label]]
    stored = storages(results)
    if len(stored) > 1:
        places = "; ".join(f"{STORED[kind]} ({', '.join(names)})" for kind, names in stored.items())
        notes.append(f"Not equal: the base's matrices are stored {places}.")
    note = " ".join(notes)
    return [
        section("What was held equal", note, held_equal(results)),
        section("Data", pairs=data_facts(results), points=[point(f) for f in results.data.findings]),
        section("Baselines", points=[point(line) for line in baseline_lines(results)]),
        section("Checks and failures", points=check_points(results)),
        section("Environment", pairs=environment_facts(results)),
    ]


def storages(results: ResultsDocument) -> dict[str, list[str]]:
    """Return the entries by how their base is stored."""
    found: dict[str, list[str]] = {}
    for name, row in results.entries.items():
        found.setdefault(storage(row), []).append(name)
    return found


def section(title: str, note: str = "", pairs: Pairs | None = None, points: list[Any] | None = None) -> dict[str, Any]:
    """Return one section for the template."""
    place = title.lower().replace(" ", "-")
    return {"id": place, "title": title, "note": note, "pairs": pairs or [], "points": points or []}


def point(text: str, bad: bool = False) -> dict[str, Any]:
    """Return one line of a list; a `bad` one is shown as a problem."""
    return {"text": text, "bad": bad}


def held_equal(results: ResultsDocument) -> Pairs:
    """Return what was the same for every entry, also of several bakeoffs."""
    protocol, generation = results.protocol, results.generation
    differing = set(results.not_held_equal)
    clipping = f"clipped at norm {protocol['clip_norm']:g}" if protocol["clip_norm"] else "not clipped"
    decay = f"weight decay {protocol['weight_decay']:g}"
    schedule = f"{protocol['schedule']} after a warm-up over {protocol['warmup_share']:.0%} of the steps"
    chosen = " (auto: what the hardware multiplies fastest)" if protocol["precision"] == "auto" else ""
    precision = f"{results.precision} for frozen weights and matrix products{chosen}, fp32 for trained weights"
    size = generation["batch_size"]
    side_by_side = f", batches of {counted(size, 'document')}" if size else ", as many documents together as fit"
    side_by_side = "" if "generation.batch_size" in differing else side_by_side
    outputs = f"at most {counted(results.output_tokens, 'token')}{side_by_side}"
    epochs = counted(protocol["epochs"], "epoch")
    waited = counted(protocol["patience"] or 0, "validation")
    patience = f"; a run ends after {waited} without a new best" if protocol["patience"] else ""
    seeds = seeds_shown(protocol)
    stored = next(iter(kinds)) if len(kinds := storages(results)) == 1 else None
    return [
        ("examples and order", "for each seed the same examples in the same batches"),
        ("template", results.template),
        ("length", f"at most {results.max_tokens} tokens; a document that is too long is cut at its end"),
        ("training", f"{epochs}, batches of {protocol['batch_size']}, loss on target tokens only"),
        ("optimizer", f"{optimizers(results)} on fp32 weights, {decay}, gradients {clipping}"),
        ("schedule", f"{schedule}{constant(results)}"),
        ("precision", precision),
        *([("base", f"its matrices stored {STORED[stored]}")] if stored not in (None, "none") else []),
        ("tuning", tuning_rule(results.tune)),
        ("checkpoint", f"the one with the lowest validation loss{patience}"),
        ("decoding", f"greedy in {generation['precision']}, {outputs}"),
        *([] if differing & {"protocol.seed", "protocol.seeds"} else [("seeds", seeds)]),
    ]  # fmt: skip


OTHERS = {"muon": "Muon for the matrices of", "schedule_free": "schedule-free for", "adamw_8bit": "in eight bits for"}


def trained_by(results: ResultsDocument, optimizer: str) -> str:
    """Return the names of the entries that this optimizer trained."""
    return ", ".join(name for name, row in results.entries.items() if row.settings.get("optimizer") == optimizer)


def optimizers(results: ResultsDocument) -> str:
    """Return the optimizer of all entries, and which have another."""
    others = [f"{words} {names}" for kind, words in OTHERS.items() if (names := trained_by(results, kind))]
    return f"AdamW ({'; '.join(others)})" if others else "AdamW"


def constant(results: ResultsDocument) -> str:
    """Return which entries do not follow the schedule; nothing if all do."""
    names = trained_by(results, "schedule_free")
    return f"; constant after it for {names} (schedule-free)" if names else ""


def seeds_shown(protocol: dict[str, Any]) -> str:
    """Return the seeds of final runs; in rounds, how many there are at least and at most, and from which on."""
    first, seeds = protocol["seed"], protocol["seeds"]
    if isinstance(seeds, dict):
        return f"in rounds, {seeds['min']} to {seeds['max']} from seed {first} on"
    return ", ".join(str(seed) for seed in range(first, first + seeds))


def tuning_rule(tune: dict[str, Any] | None) -> str:
    """Return the rule by which settings were chosen."""
    if tune is None:
        return "off: the settings in the config"
    halving = "; the worse half stops after 1/4 and after 1/2 of the steps" if tune["halving"] else ""
    asked = ", half of them by the losses so far (tpe)" if tune.get("sampler") == "tpe" else ""
    return (
        f"{counted(tune['trials'], 'trial')} for each tuned entry, with the first seed, from its own range{asked}"
        f"{halving}; "
        "the trial with the lowest validation loss is chosen; if it is at the edge of what was tried, one more trial "
        "follows"
    )


def data_facts(results: ResultsDocument) -> Pairs:
    """Return counts, lengths and cut documents of each split, and the content's hash."""
    data = results.data
    pairs = [("source", data.source), ("content hash", data.identity)]
    for split, facts in data.splits.named():
        mean = ""
        if facts.cut_documents is not None:
            mean = f"; mean {facts.prompt_tokens_mean:.0f} tokens in, {facts.target_tokens_mean:.0f} out"
        pairs.append((split, split_line(facts) + mean))
    return pairs


def check_points(results: ResultsDocument) -> list[dict[str, Any]]:
    """Return failures first, then every check with the rows that passed it."""
    rows = results.rows
    points = [
        point(f"{n}: {row.status}: {row.error or 'no result yet'}", row.status != "not run")
        for n, row in rows.items()
        if row.status != "done"
    ]
    for check, meaning in CHECKS.items():
        checked = {n: row.checks[check] for n, row in rows.items() if check in row.checks}
        broken = [n for n, passed in checked.items() if not passed]
        passed = [n for n in checked if n not in broken]
        if passed:
            points.append(point(f"Passed for {', '.join(passed)}: {meaning}."))
        points += [point(f"Failed for {n}: {meaning}. Here: {rows[n].check_notes[check]}.", True) for n in broken]
    return points or [point("No run has finished yet.")]


def environment_facts(results: ResultsDocument) -> Pairs:
    """Return the environment block; bytes in a readable unit, and all values if several bakeoffs differ."""
    return [
        (name.removesuffix("_bytes").replace("_", " "), environment_value(name, value))
        for name, value in results.environment.items()
        if value is not None
    ]


def environment_value(name: str, value: Any) -> str:
    """Return one value of the environment as text."""
    if isinstance(value, list):
        return " | ".join("none" if one is None else environment_value(name, one) for one in value)
    return size(value) if name.endswith("_bytes") else str(value)

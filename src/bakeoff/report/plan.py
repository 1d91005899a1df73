"""The plan as `bakeoff plan` prints it."""

import math

from rich.table import Table

from bakeoff.analysis.columns import NO_SUCH_THING, counted, rate, size
from bakeoff.analysis.table import cell
from bakeoff.driver.memory import cures
from bakeoff.errors import listed
from bakeoff.store.plan_document import Choices, EntryFacts, PlanDocument, SplitFacts
from bakeoff.tuning.labels import setting_text
from bakeoff.tuning.search import budget

BUDGETS = (2, 4, 8, 16)  # trials
BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def plan_table(plan: PlanDocument) -> Table:
    """Return a plan's entries for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("entry")
    for heading in ("method", "trainable", "of", "%", "steps", "tuning", "trials", "searched or fixed rate"):
        table.add_column(heading, justify="right")
    for name, row in plan.entries.items():
        counts = (f"{row.trainable_parameters:,}", f"{row.total_parameters:,}", f"{row.trainable_percent:.4f}")
        tuning = (row.tuning, str(row.trials or NO_SUCH_THING), searched(row))
        table.add_row(*map(cell, (name, row.method, *counts, f"{row.steps:,}", *tuning)))
    return table


def searched(row: EntryFacts) -> str:
    """Return the ranges from which an entry's trials are drawn, or its fixed learning rate."""
    ranges = [
        f"{name} {' or '.join(span.values)}"
        if isinstance(span, Choices)
        else f"{name} {setting_text(span.low, 3)} to {setting_text(span.high, 3)}"
        for name, span in row.search.items()
    ]
    return ", ".join([*ranges, *([] if row.learning_rate is None else [rate(row.learning_rate)])])


def plan_lines(plan: PlanDocument) -> list[str]:
    """Return what else a plan says: the number of runs, the splits with their cut documents, and findings."""
    most = "at most " if plan.looks else ""
    asked = sum(row.trials - len(row.trial_points) for row in plan.entries.values())
    runs = counted(len(plan.runs) + asked, "run")
    lines = [f"{most}{runs}, {most}{counted(total_steps(plan), 'optimizer step')} in all"]
    if plan.looks:
        lines.append(
            f"seeds in rounds: {plan.looks[0]} final runs of each entry, then more only for entries that may still be "
            f"told from the best; looks at {listed(plan.looks)} seeds. This range is final once results were looked at"
        )
    tuned = [row for row in plan.entries.values() if row.trials]
    if tuned:
        trials, steps = tuned[0].trials, tuned[0].trial_steps
        lines.append(
            f"{counted(trials, 'trial')} for each tuned entry, {counted(steps, 'step')} together; the chosen trial "
            f"becomes the run of the first seed. If it is at the edge of its range, one more trial follows, of "
            f"{counted(tuned[0].steps, 'step')}"
        )
        lines.append(f"other numbers of trials (tune.trials): {other_budgets(tuned[0], bool(plan.rungs))}")
    if asked:
        lines.append(f"settings of {counted(asked, 'trial')} follow from the losses of the others (tune.sampler: tpe)")
    lines += few_bits(plan)
    lines += [f"{name} not run: {reason}" for name, reason in plan.not_run.items()]
    lines += [f"{split}: {split_line(facts)}" for split, facts in plan.data.splits.named()]
    return [*lines, *forecast_lines(plan), *plan.data.findings]


def other_budgets(row: EntryFacts, halving: bool) -> str:
    """Return which numbers of steps an entry's trials would take if there were more or fewer of them."""
    steps = {trials: budget(trials, row.steps, halving) for trials in BUDGETS if trials != row.trials}
    return ", ".join(f"{counted(count, 'step')} with {trials}" for trials, count in steps.items())


def few_bits(plan: PlanDocument) -> list[str]:
    """Return a line for each way in which entries' bases are packed: of how many weights, which is not all of them."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name, row in plan.entries.items():
        if row.packed_parameters:
            groups.setdefault((row.quantize, row.packed_parameters), []).append(name)
    whole = plan.model.total_parameters
    lines = []
    for (kind, count), names in groups.items():
        how = "packed in its files" if kind == "none" else kind
        lines.append(
            f"{how}: {count / whole:.1%} of the base's weights ({count:,}), for {listed(names)}; embeddings, the "
            f"output head and what is no matrix stay in {plan.precision}"
        )
    return lines


def split_line(facts: SplitFacts) -> str:
    """Return in one line what is known about a split's lengths."""
    text = counted(facts.examples, "example")
    if facts.cut_documents is None or facts.cut_tokens is None:
        return text
    text += f", {facts.cut_documents:.1%} of documents cut ({facts.cut_tokens:.1%} of their tokens)"
    for what, lengths in (("document", facts.document_lengths), ("target", facts.target_lengths)):
        if lengths:
            spread = f"median {lengths.median:,.0f}, 99 % up to {lengths.p99:,}, longest {lengths.longest:,}"
            text += f"; {what}s {bars(lengths.counts)} {spread} tokens"
    return text


def bars(counts: list[int]) -> str:
    """Return a histogram's counts as a row of bars; a bin with any row has at least the lowest bar."""
    return "".join(" " if not n else BARS[max(0, math.ceil(n * len(BARS) / max(counts)) - 1)] for n in counts)


def forecast_lines(plan: PlanDocument) -> list[str]:
    """Return what a plan knows about costs: exact counts and, after a probe, time and memory."""
    lines = []
    if plan.counts:
        counts = plan.counts
        lines.append(
            f"an epoch trains on {counts.train_tokens:,} tokens, its longest batch has "
            f"{counts.longest_batch_tokens:,}; each run reads {counts.test_tokens:,} test tokens and writes up "
            f"to {counts.output_tokens:,}"
        )
    forecast = plan.forecast
    if not forecast:
        least = listed([f"{name} {size(row.least_bytes)}" for name, row in plan.entries.items()])
        lines.append(
            f"memory without activations and logits: {least}. Try: --probe, which measures time and peak memory"
        )
        return lines + no_room(plan) + together(plan)
    for name, row in forecast.entries.items():
        probed = row.error or f"about {duration(row.seconds or 0)}, {size(row.peak_bytes or 0)} at the peak"
        lines.append(f"{name}: {probed}")
    if forecast.seconds is not None:
        most = "at most " if plan.looks else ""
        lines.append(f"all entries: {most}about {duration(forecast.seconds)}, without baselines and the trunk cache")
    lines += first_round(plan, forecast.first_round_seconds)
    return lines + no_room(plan) + together(plan)


def first_round(plan: PlanDocument, seconds: float | None) -> list[str]:
    """Return a line on the time of the first round of seeds, which always runs, whatever the budget."""
    if seconds is None:
        return []
    line, budget = f"the first round of seeds: about {duration(seconds)}", plan.config["protocol"]["budget"]
    if budget is None or seconds <= budget:
        return [line]
    return [
        f"{line}, which is over protocol.budget ({duration(budget)}), so no seeds would be added after it. Try: a "
        "larger budget, or fewer entries or trials"
    ]


def together(plan: PlanDocument) -> list[str]:
    """Return a line on the memory that several runs at once on a device need; none if there is one at a time."""
    if plan.at_once == 1:
        return []
    probed = plan.forecast.entries if plan.forecast else {}
    measured = {name: row.peak_bytes or 0 for name, row in probed.items()}
    needs = {name: max(row.least_bytes, measured.get(name, 0)) for name, row in plan.entries.items()}
    name, most = max(needs.items(), key=lambda item: item[1])
    need, what = plan.at_once * most, "" if probed else " without activations and logits"
    line = f"{plan.at_once} runs at once on a device need up to {size(need)} of memory{what} (of {name}), "
    if need <= plan.memory_bytes:
        return [f"{line}of {size(plan.memory_bytes)}"]
    room = max(1, int(plan.memory_bytes // most))
    return [f"{line}more than its {size(plan.memory_bytes)}. Try: --workers, at most {room} for each device"]


def no_room(plan: PlanDocument) -> list[str]:
    """Return a line that names the entries that do not fit into memory, and what is missing; none if all fit."""
    probed = plan.forecast.entries if plan.forecast else {}
    lacking = {}
    for name, row in plan.entries.items():
        peak = probed[name].peak_bytes if name in probed else None
        missing = max(row.least_bytes, peak or 0) - plan.memory_bytes
        if missing > 0:
            lacking[name] = f"{name} ({size(missing)} are missing)"
        elif name in probed and probed[name].error:
            lacking[name] = name
    if not lacking:
        return []
    rows = [plan.entries[name] for name in lacking]
    activations = any(row.least_bytes <= plan.memory_bytes for row in rows)
    decoding = plan.decoding_precision or "fp32"
    return [
        f"does not fit into the {size(plan.memory_bytes)} of memory: {listed([*lacking.values()])}. Try: "
        f"{cures(rows, decoding, False, activations)}"
    ]


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def total_steps(plan: PlanDocument) -> int:
    """Return the optimizer steps of all runs without extensions; a tuned entry's first seed adopts its trial."""
    finals = sum(run.steps or 0 for run in plan.runs if run.kind == "entry")
    return finals + sum(row.trial_steps - row.steps for row in plan.entries.values() if row.trials)

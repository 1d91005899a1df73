"""Rounds of seeds: looks at the records after each, says what they show, and names the runs of the next one."""

from collections.abc import Iterator

from bakeoff.analysis.caveats import listed
from bakeoff.analysis.round_budget import OverBudget, next_round, over_budget
from bakeoff.analysis.rounds import Rounds, chance
from bakeoff.analysis.summary import read_clusters, rounds_so_far
from bakeoff.driver.bus import Bus
from bakeoff.driver.plan import Plan
from bakeoff.store.events import NOT_NEEDED, State
from bakeoff.store.records import Run
from bakeoff.store.run_folder import Folder


def later_rounds(folder: Folder, planned: Plan, bus: Bus) -> Iterator[list[Run]]:
    """Yield the final runs of each round after the first, once all runs before it have ended.

    Runs that turn out not to be needed are told to the displays. A run that fails takes its entry out of the looks.
    """
    clusters, told, before = read_clusters(folder, planned.document, planned.config), 0, None
    while True:
        rounds = rounds_so_far(folder, planned.document, planned.config, clusters, {})
        for number in range(told, len(rounds.taken)):
            bus.note(told_by(rounds, number))
        told, now = len(rounds.taken), (len(rounds.taken), rounds.wanted)
        release(folder, planned, rounds, bus)
        following = missing(folder, planned, rounds.wanted) if rounds.taken else []
        if not following or now == before:
            return
        if over := over_budget(folder, planned.document, following, planned.config.protocol.budget):
            bus.note(told_of(over))
            release(folder, planned, rounds, bus, ended=True)
            return
        yield following
        before = now


def missing(folder: Folder, planned: Plan, wanted: dict[str, int]) -> list[Run]:
    """Return the final runs that are not done, of the first seeds that a look wants of each entry."""
    runs = next_round(planned.document, wanted)
    return [run for run in runs if not folder.is_complete(run.id, planned.document)]


def told_by(rounds: Rounds, number: int) -> str:
    """Return in one line what a look showed, counted from 0; of the last one also what is still open."""
    line = f"look {number + 1} of at most {len(rounds.looks)}, at {rounds.taken[number].seeds} seeds"
    if number + 1 < len(rounds.taken):
        return line
    if not rounds.wanted:
        return f"{line}: no further seeds, as nothing more can be decided"
    undecided = max(1, sum(state != "different" for state in rounds.states.values()))
    still = [
        f"{a} and {b} (told apart by {rounds.looks[-1]} seeds with a chance of "
        f"{chance(rounds.pairs[a, b], rounds.bound, undecided):.0%})"
        for (a, b), state in rounds.states.items()
        if state == "open" and {a, b} <= set(rounds.active)
    ]
    following = f"{rounds.looks[number + 1]} seeds next for {listed(list(rounds.wanted))}"
    return f"{line}: {following}; still open: {listed(still)}"


def release(folder: Folder, planned: Plan, rounds: Rounds, bus: Bus, ended: bool = False) -> None:
    """Tell the displays which planned runs are not needed: those of entries that get no more seeds.

    These are entries that are decided on; those that have failed, after the first look's runs; where a budget has
    `ended` the rounds, all.
    """
    ends = {run.entry: rounds.looks[0] for run in planned.runs if run.kind == "entry"}
    for name, count in rounds.counts.items():
        ends[name] = rounds.looks[-1] if name in rounds.wanted and not ended else count
    for name, end in ends.items():
        for run in [run for run in planned.runs if run.kind == "entry" and run.entry == name][end:]:
            if folder.run(run.id).result() is None:
                bus.handle(State(run=run.id, state=NOT_NEEDED))


def told_of(over: OverBudget) -> str:
    """Return in a line that a round does not fit into the budget."""
    return (
        f"protocol.budget: {over.spent:,.0f} s of {over.budget:,.0f} s are spent, and the next round would take about "
        f"{over.expected:,.0f} s, so it is not begun. Try: a larger budget; the error rate stays as it is"
    )

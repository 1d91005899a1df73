"""The tables in docs/reliability.md: what `survive.py` has found."""

from pathlib import Path
from typing import Any

from places import Local, OnRay, Slots

BEGIN, END = "<!-- tables: made by survive.py write -->\n", "<!-- end -->"
VICTIMS = {
    "run": "a run's process", "server": "the run server", "worker": "a worker of Ray, with its run",
    "node": "a node of Ray, with its run", "driver": "the driver",
}  # fmt: skip
PLACES = {
    Local.what: "one run at a time",
    Slots.what: "two runs at a time (`--on slots`)",
    OnRay.what: "two nodes of a Ray cluster (`--on ray`)",
}


def write_tables(page: Path, rows: list[dict[str, Any]]) -> str:
    """Put the tables of these outcomes into their place on the page, and return them."""
    before, _, rest = page.read_text().partition(BEGIN)
    tables = "\n".join([*killed([row for row in rows if row["kind"] == "soak"]), *others(rows)]) + "\n"
    page.write_text(before + BEGIN + tables + END + rest.partition(END)[2])
    return tables


def killed(soaks: list[dict[str, Any]]) -> list[str]:
    """Return the lines on processes that were killed at random moments, by where the runs were carried out."""
    dates = sorted(row["date"][:10] for row in soaks)
    lines = [
        "## Killed at random moments",
        "",
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}.",
        "",
    ]
    for what, label in PLACES.items():
        rows = [row for row in soaks if row["what"] == what]
        if rows:
            lines += table(label, rows)
    return lines


def table(label: str, soaks: list[dict[str, Any]]) -> list[str]:
    """Return the table of the soaks in one place."""
    kills = [kill for row in soaks for kill in row["kills"]]
    groups = [(name, [kill for kill in kills if kill["victim"] == victim]) for victim, name in VICTIMS.items()]
    groups = [(name, group) for name, group in groups if group]
    whole = [row for row in soaks if row["survived"]]
    same = [row for row in whole if not row["differences"]]
    starts = sum(row["starts"] for row in soaks)
    return [
        f"| {label}: killed | kills | work lost, seconds: mean | longest |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {lost(group)} |" for name, group in [*groups, ("together", kills)]),
        "",
        f"{len(kills)} kills in {len(soaks)} bakeoffs, started {starts} times. {len(whole)} came to their end, "
        f"{len(same)} of them with identical results, {len(soaks) - len(same)} with lost or changed ones.",
        "",
    ]


def others(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines on other faults, of each the latest."""
    faults = {row["what"]: row for row in rows if row["kind"] == "fault"}
    lines = ["## Other faults", "", "| fault | survived | identical results | what happened |", "|---|---|---|---|"]
    for what, row in faults.items():
        survived, same = row["survived"], row["survived"] and not row["differences"]
        lines.append(f"| {what} | {yes(survived)} | {yes(same)} | {row['note'].strip()} |")
    return [*lines, ""]


def yes(fact: bool) -> str:
    """Return yes or no."""
    return "yes" if fact else "no"


def lost(kills: list[dict[str, Any]]) -> str:
    """Return how many kills there were, and what they cost."""
    seconds = [kill["lost_seconds"] for kill in kills]
    return f"{len(seconds)} | {sum(seconds) / max(1, len(seconds)):.1f} | {max(seconds, default=0):.1f}"

"""Write docs/methods-compared.md, or docs/methods-compared-real.md, and its picture from finished bakeoffs.

`python tools/methods_page.py DIR [DIR ...] [--busy]`, of recipes/everything.yaml or recipes/real-methods.yaml. Numbers,
ties and choices come from the run folders alone. If there are several, each with some of the entries, all entries are
judged together; data, base and protocol must be the same. `--busy` leaves times out: the machine had other work.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bakeoff.analysis.budgets import budget_note, curves_of
from bakeoff.analysis.columns import OTHERS, size
from bakeoff.analysis.comparison import summarize_together
from bakeoff.analysis.preferences import PREFERENCES
from bakeoff.api import load_results
from bakeoff.report.charts.quality import costs, pareto, point, qualities, quality_cost
from bakeoff.report.differences import recommendation
from bakeoff.store.results_document import ResultsDocument, ResultsRow
from bakeoff.store.run_folder import Folder
from two_rates import DOCS

HEADINGS = (
    "entry", "{score}", "95 % interval", "compared with the best", "test loss", "forgetting", "trainable", "adapter",
    "learning rate", "range",
)  # fmt: skip
MEASURED = [column for column in OTHERS if column.heading in ("train s", "tokens/s", "peak memory")]


class Kind(NamedTuple):
    """What tells one page from another: its file, title, what was adapted to what, and how far it carries."""

    file: str
    title: str
    subject: str
    recipe: str
    carries: str


EMBEDDED = Kind(
    "methods-compared", "Methods compared", "the small base that comes with bakeoff and the docstring task",
    "recipes/everything.yaml", "This is a small base, a small task and a short training.",
)  # fmt: skip
REAL = Kind(
    "methods-compared-real", "Methods compared on a pretrained model",
    "Gemma 3 270M, unpacked from a 4-bit file, and dialogues of DialogSum of at most 500 characters",
    "recipes/real-methods.yaml", "This is a small model and a very short training.",
)  # fmt: skip


def kind(document: ResultsDocument) -> Kind:
    """Return which page a bakeoff has."""
    return EMBEDDED if document.data.source == "docstrings" else REAL


def finished(document: ResultsDocument) -> list[str]:
    """Return the entries with all their seeds."""
    return [name for name, row in document.entries.items() if row.status == "done"]


def count(document: ResultsDocument) -> str:
    """Return how many entries are in the comparison, if not all have finished."""
    done, every = len(finished(document)), len(document.entries)
    return str(done) if done == every else f"The first {done} of {every}"


def ordered(document: ResultsDocument) -> dict[str, ResultsRow]:
    """Return all rows with results, the highest score first."""
    metric = document.verdict.metric
    done = {name: row for name, row in document.rows.items() if row.status == "done"}
    return dict(sorted(done.items(), key=lambda pair: -pair[1].metrics[metric].mean))


def group_of(name: str, document: ResultsDocument) -> str:
    """Return where an entry stands: best, tied with it, or by how much behind."""
    verdict = document.verdict
    if name == verdict.best:
        return "best"
    pairs = [*verdict.pairs, *verdict.baseline_pairs]
    found = next((p for p in pairs if {p.first, p.second} == {name, verdict.best}), None)
    if found is None:
        return ""
    gap = 100 * found.difference * (1 if found.first == verdict.best else -1)
    if not found.different:
        return f"tied ({gap:.1f})"
    return f"{gap:.1f} behind" if gap > 0 else f"{-gap:.1f} above"


def table(document: ResultsDocument, busy: bool) -> str:
    """Return the Markdown table, the highest score first."""
    verdict, measured = document.verdict, [] if busy else MEASURED
    headings = [*(h.format(score=verdict.heading) for h in HEADINGS), *(column.heading for column in measured)]
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    for name, row in ordered(document).items():
        score, loss = row.metrics[verdict.metric], row.metrics.get("test/loss")
        low, high = score.low or score.mean, score.high or score.mean
        cells = [
            name if row.kind == "entry" else f"*{name}*", f"{score.mean:.3f}", f"{low:.3f} to {high:.3f}",
            group_of(name, document), f"{loss.mean:.3f}" if loss else "", forgetting(row), *of_entry(row),
            *(column.text(row) if row.kind == "entry" else "" for column in measured),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def forgetting(row: ResultsRow) -> str:
    """Return how much the loss on neutral text rose."""
    score = row.metrics.get("neutral/forgetting")
    return f"{score.mean:+.3f}" if score and row.kind == "entry" else ""


def of_entry(row: ResultsRow) -> list[str]:
    """Return an entry's trained weights, adapter's size, learning rate, and where that is in its range."""
    if row.kind != "entry":
        return [""] * 4
    edge = next(iter(row.tuning.edge.values()), "") if row.tuning else ""
    past = f"{edge}est tried, one further {row.tuning.extended}" if edge and row.tuning else ""
    adapter = row.costs.get("adapter_bytes")
    return [f"{row.trainable_parameters:,}", size(adapter) if adapter else "", f"{row.learning_rate:.2g}", past]


def front(document: ResultsDocument) -> str:
    """Return in words the entries that no other beats on both score and trained weights, the smallest first."""
    quality, cost = qualities(document)[0], costs(document)[0]
    points = [p for n, row in document.entries.items() if (p := point(n, row, quality, cost))]
    return ", ".join(f"{p['entry']} ({p['cost']:,}: {p['quality']:.3f})" for p in pareto(points, quality.lower))


def edges(document: ResultsDocument) -> str:
    """Return in words how many searches ended at an edge, and for which the step past it was better."""
    tuned = {name: row.tuning for name, row in document.entries.items() if row.tuning}
    at_edge = {name: t for name, t in tuned.items() if t.edge}
    better = [name for name, t in at_edge.items() if t.extended == "better"]
    named = f" ({', '.join(better)})" if better else ""
    return (
        f"{len(at_edge)} of {len(tuned)} searches had their best trial at an edge; one step further was better for "
        f"{len(better)} of them{named}."
    )


def choices(document: ResultsDocument, busy: bool) -> str:
    """Return what each preference chooses."""
    return "\n".join(f"- {recommendation(document, word)}" for word in PREFERENCES if not (busy and word == "time"))


def timing(document: ResultsDocument, busy: bool) -> str:
    """Return how times were measured."""
    if busy:
        return "Other work ran on the machine, so times are left out."
    if any(row.timed_alone for row in document.entries.values()):
        return "Training seconds are at the pace of some steps of each entry that were taken with nothing else running."
    return "One run was carried out at a time, with nothing else on the machine."


def joined(value: Any) -> str:
    """Return a fact about the machine; of several bakeoffs, all that differ."""
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def page(document: ResultsDocument, folders: Sequence[Folder], busy: bool = False) -> str:
    """Return the page."""
    this, where, verdict = kind(document), document.environment, document.verdict
    splits = {name: split.examples for name, split in document.data.splits.named()}
    first = next(iter(document.entries.values()))
    tied, done = [verdict.best or "", *verdict.tied_with_best], len(finished(document))
    several = "".join(f"{note} " for note in document.notes)
    return f"""# {this.title}

{count(document)} methods on {this.subject}, each with
{first.trials} trials of its learning rate over its own range (the worse half stops after a quarter and after half of
the steps) and {document.protocol["seeds"]} seeds; {splits["train"]:,} training, {splits["validation"]} validation and
{splits["test"]} test examples, {first.steps} steps. All of it was written by
`bakeoff run {this.recipe}` and `python tools/methods_page.py {" ".join(str(f.path) for f in folders)}`, on
{where["date"][:10]} ({joined(where["cores"])} cores, {joined(where["processor"])}, {document.precision}, no GPU).
{several}{timing(document, busy)}

{this.carries} The page says how methods compare here once each has its own learning rate, and how much
of such a ranking is chance; your data are worth a bakeoff of their own.

## What to take
{choices(document, busy)}

{len(tied)} of {done} entries are tied with the best on {verdict.heading}. A true gap of
{100 * (verdict.detectable_gap or 0):.1f} points would have been found with 80 % power. The best entry is one of
{len(verdict.maybe_best)}, with 95 % confidence.

Not beaten by any other entry on both {verdict.heading} and trained weights, the smallest first: {front(document)}.

![{verdict.heading} against trained weights]({this.file}.svg)

## The table
Rows in italics are baselines. Behind and tied are by the corrected p values of [the verdict](verdict.md).

{table(document, busy)}

{document.score_signature}

## The search
{edges(document)} {budget_note(curves_of(document))}

## The verdict
> {verdict.text}
"""


def main() -> None:
    """Write page and picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--busy", action="store_true")
    given = parser.parse_args()
    folders = [Folder(path) for path in given.folders]
    documents = [load_results(folder.path).document for folder in folders]
    document = summarize_together(folders, documents) if len(folders) > 1 else documents[0]
    figure, file = quality_cost(document, qualities(document)[0], costs(document)[0]), DOCS / kind(document).file
    assert figure is not None, "no entry has finished"
    mixed = any(row.beside and not row.timed_alone for row in document.entries.values())
    file.with_suffix(".svg").write_text(figure.file)
    file.with_suffix(".md").write_text(page(document, folders, given.busy or mixed))


if __name__ == "__main__":
    main()

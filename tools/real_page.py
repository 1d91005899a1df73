"""Write docs/real-model.md and its pictures from the finished bakeoffs of recipes/real.yaml and real-shared.yaml.

`python tools/real_page.py bakeoffs/real bakeoffs/real-shared`. Numbers, outputs and verdicts come from the run
folders alone; the small base's learning rates come from docs/family.md.
"""

import sys
from typing import Any

from bakeoff.analysis.table import markdown_table
from bakeoff.api import load_results
from bakeoff.compute.model.base import count_parameters, shape_only
from bakeoff.store.documents import PredictionRow
from bakeoff.store.plan_document import PlanDocument
from bakeoff.store.run_folder import Folder
from two_rates import (
    DOCS,
    TIMED,
    chosen_rates,
    curves,
    curves_picture,
    dated,
    rankings,
    rows,
    scores_picture,
    without,
    write_picture,
)

METHODS = {
    "prompt_tuning": "prompt tuning",
    "last_layers": "last layers",
    "lora": "LoRA",
    "ia3": "IA3",
    "full": "full fine-tuning",
}
HUB = "google/gemma-3-270m"
LEFT_OUT = TIMED | {"forgetting"}
SHOWN = 3  # documents whose outputs are shown
FOLDERS = ("bakeoffs/real", "bakeoffs/real-shared")


def page(folder: Folder, twin: Folder, table: list[dict[str, Any]]) -> str:
    """Return the page."""
    plan, document = folder.plan(), load_results(folder.path).document
    shared = load_results(twin.path).document
    return f"""{introduction(folder)}
![test loss and ROUGE-L of five methods at one shared rate and at their own](real-model.svg)

{rankings(table)}

{gains(table)}

Learning rates chosen by validation loss: {chosen_rates(table)}.

> {document.verdict.text}

The verdict at the shared rate (one seed, so intervals are over documents only):

> {shared.verdict.text}
{dated(document.verdict.text + shared.verdict.text)}
![validation loss over the steps](real-model-curves.svg)

Each at its own rate:

{without(markdown_table(document), LEFT_OUT)}

At the shared rate:

{without(markdown_table(shared), LEFT_OUT)}

## Outputs side by side

Outputs are those of the first seed. The test dialogues were chosen only by their position in the file. They are
DialogSum's (CC BY-NC-SA 4.0).

{outputs(folder, twin)}

## What differs from the base that comes with bakeoff

{facts(plan)}

{rates(table)}

{directions(table)}
"""


def introduction(folder: Folder) -> str:
    """Return what was done, on what and by which commands."""
    where, plan = folder.environment(), folder.plan()
    splits = {name: split.examples for name, split in plan.data.splits.named()}
    entry = plan.entries["lora"]
    return f"""# A pretrained model

Gemma 3 270M, a small pretrained model, learns to summarize the dialogues of DialogSum (Chen et al. 2021) by five
methods: a soft prompt of 20 virtual tokens, the last two blocks, LoRA of rank 16, IA3 and full fine-tuning. Each has
{entry.trials} trials over its own range of learning rates, then three seeds at the chosen rate. For comparison, each is
also trained at one shared rate, 5e-5, the default of many trainers, with one seed. The data are {splits["train"]:,}
training, {splits["validation"]} validation and {splits["test"]} test dialogues of at most 500 characters;
each test dialogue has {len(references(folder))} references. Training takes {entry.steps} steps. Outputs have at most
{plan.output_tokens} tokens.

Everything below was written by `python tools/short_documents.py DIALOGSUM build/dialogsum`, `bakeoff run
recipes/real.yaml`, `bakeoff run recipes/real-shared.yaml` and `python tools/real_page.py`, on {where["date"][:10]}
({where["cores"]} cores, {where["processor"]}, {plan.precision}, no GPU). The weights come from a 4-bit file and were
unpacked to bf16, since the original ones were not available here. The machine was also running other jobs, so times are
left out. Forgetting is left out, too: it was measured without the `<bos>` token with which Gemma's texts begin; that is
fixed now.
"""


def references(folder: Folder) -> list[str]:
    """Return the references of the first test example."""
    first = next(iter(folder.examples("test")))
    return first.references or [first.summary]


def outputs(folder: Folder, twin: Folder) -> str:
    """Return some test dialogues, each with its reference and what the base and the entries wrote."""
    written = {**written_by(folder, ("base", *METHODS)), "LoRA at the shared rate": written_by(twin, ("lora",))["LoRA"]}
    examples = [*folder.examples("test")]
    parts = []
    for place in range(0, len(examples), len(examples) // SHOWN)[:SHOWN]:
        lines = [f"> {line}" for line in quoted(examples[place].document).split("\n")]
        table = ["| | output | ROUGE-L |", "|---|---|---:|", f"| reference | {cell(examples[place].summary)} | |"]
        for name, rows_of in written.items():
            score = rows_of[place].score("rougeL")
            table.append(f"| {name} | {cell(rows_of[place].output)} | {score:.2f} |")
        parts.append("\n>\n".join(lines) + "\n\n" + "\n".join(table))
    return "\n\n".join(parts)


def written_by(folder: Folder, names: tuple[str, ...]) -> dict[str, list[PredictionRow]]:
    """Return the predictions of each of these entries' or baselines' first run, by heading."""
    first: dict[str, str] = {}
    for run in folder.plan().runs:
        if run.entry in names and run.kind != "trial":
            first.setdefault(run.entry, run.id)
    return {METHODS.get(name, "untouched base"): folder.run(first[name]).predictions() for name in names}


def quoted(text: str) -> str:
    """Return a text whose marks Markdown does not read."""
    return text.replace("#", "\\#").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return quoted(text).replace("|", "\\|").replace("\n", " ↵ ").strip() or "(nothing)"


def facts(plan: PlanDocument) -> str:
    """Return a table of what the shapes of the two bases say."""
    pair = [shape_only("base"), shape_only(HUB)]
    embedded = [base.get_input_embeddings().weight.numel() for base in pair]
    totals = [count_parameters(base)[1] for base in pair]
    windows = [getattr(base.config, "sliding_window", None) for base in pair]
    root = pair[1].config.hidden_size ** 0.5
    columns: dict[str, list[Any]] = {
        "weights": [f"{total:,}" for total in totals],
        "blocks x width": [f"{base.config.num_hidden_layers} x {base.config.hidden_size}" for base in pair],
        "vocabulary": [f"{base.config.vocab_size:,}" for base in pair],
        "share of the weights in embeddings": [f"{e / t:.0%}" for e, t in zip(embedded, totals, strict=True)],
        "attention": [f"window of {window}, except in every sixth block" if window else "full" for window in windows],
        "embedded words": ["as they are", f"multiplied by the square root of the width, {root:.1f}"],
        "queries and keys": ["as they are", "normalised"],
    }
    assert totals[1] == plan.model.total_parameters, plan.model
    lines = ["| | comes with bakeoff | Gemma 3 270M |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {a} | {b} |" for name, (a, b) in columns.items())])


def by_method(table: list[dict[str, Any]], own: bool) -> dict[str, dict[str, Any]]:
    """Return the rows at each method's own rate, or those at the shared one, by the method's heading."""
    return {row["method"]: row for row in table if row["condition"].startswith("its own") == own}


def gains(table: list[dict[str, Any]]) -> str:
    """Return in a sentence what a rate of its own changes for each method's ROUGE-L, the largest change first."""
    shared, tuned = by_method(table, False), by_method(table, True)
    score = "test/rougeL/mean"
    order = sorted(METHODS.values(), key=lambda name: shared[name][score] - tuned[name][score])
    changes = [f"{name} from {shared[name][score]:.3f} to {tuned[name][score]:.3f}" for name in order]
    return f"With a rate of its own, ROUGE-L changes for {joined(changes)}."


def family_rows() -> dict[str, dict[str, str]]:
    """Return the table of docs/family.md by entry and heading."""
    grid = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in (DOCS / "family.md").open() if "|" in line
    ]
    return {row[0]: dict(zip(grid[0], row, strict=True)) for row in grid[2:] if len(row) == len(grid[0])}


def directions(table: list[dict[str, Any]]) -> str:
    """Return in a sentence which methods' rates are lower for this base than for the one that comes with bakeoff."""
    family, tuned = family_rows(), by_method(table, True)
    lower = [n for m, n in METHODS.items() if tuned[n]["rate"] < float(family[m]["learning rate"])]
    higher = [n for n in METHODS.values() if n not in lower]
    return (
        f"Compared with the base that comes with bakeoff (on another task), the trials chose lower rates for "
        f"{joined(lower)}, and higher ones for {joined(higher)}."
    )


def joined(names: list[str]) -> str:
    """Return names in a row, for a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names or ["none"])


def rates(table: list[dict[str, Any]]) -> str:
    """Return the tuned rates beside those of the embedded base on docstrings, with each method's test loss."""
    family, tuned = family_rows(), by_method(table, True)
    lines = [
        "| learning rate (test loss) | comes with bakeoff, [docstrings](family.md) | Gemma 3 270M, dialogues |",
        "|---|---:|---:|",
    ]
    for name, heading in METHODS.items():
        there, here = family[name], tuned[heading]
        lines.append(
            f"| {heading} | {there['learning rate']} ({there['test loss']}) "
            f"| {here['rate']:.2g} ({here['test/loss/mean']:.3f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write page and pictures."""
    folder, twin = (Folder(path) for path in sys.argv[1:] or FOLDERS)
    document, table, points = load_results(folder.path).document, [], []
    for place, condition in ((folder, "tuned"), (twin, "shared")):
        names = {method: (heading, condition) for method, heading in METHODS.items()}
        table += rows(load_results(place.path).document, names)
        points += curves(place, names)
    write_picture("real-model.svg", scores_picture(table, document))
    write_picture("real-model-curves.svg", curves_picture(points, columns=3))
    (DOCS / "real-model.md").write_text(page(folder, twin, table))


if __name__ == "__main__":
    main()

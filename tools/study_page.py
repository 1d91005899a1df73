"""Write docs/study.md and its pictures from the finished bakeoff of recipes/study-embedded.yaml.

`python tools/study_page.py bakeoffs/study-embedded`. Numbers and the verdict come from the run folder alone.
"""

import sys
from typing import Any

from bakeoff.analysis.table import markdown_table
from bakeoff.api import load_results
from bakeoff.store.run_folder import Folder
from two_rates import (
    CONDITIONS,
    DOCS,
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

METHODS = {"prompt": "prompt tuning", "last_layers": "last layers", "lora": "LoRA"}


def page(folder: Folder, document: Any, table: list[dict[str, Any]]) -> str:
    """Return the page."""
    where, plan = folder.environment(), folder.plan()
    splits = {name: split.examples for name, split in plan.data.splits.named()}
    steps = next(iter(plan.entries.values())).steps
    trials = plan.entries["lora_tuned"].trials
    return f"""# The study, done properly

bakeoff grew out of a study of three methods that gave each the same learning rate, 5e-5, and one seed. Here are the
same three methods (soft prompts of 6 virtual tokens, the last block with the head, LoRA of rank 128 on the
attention's input) twice: at that shared rate, and with {trials} trials per method over its own range. Each has
three seeds. The base is the small model that comes with bakeoff, and the task is that of the demo: to write the
summary line of a docstring ({splits["train"]:,} training, {splits["validation"]} validation and {splits["test"]}
test examples, {steps} steps). Everything below was written by
`bakeoff run recipes/study-embedded.yaml` and `python tools/study_page.py bakeoffs/study-embedded`, on
{where["date"][:10]} ({where["cores"]} cores, {where["processor"]}, {plan.precision}, no GPU). Other work ran on
the machine, so times are left out.

![test loss and ROUGE-L of three methods at one shared rate and at their own](study.svg)

{rankings(table)}

Learning rates chosen by validation loss: {chosen_rates(table)}.

> {document.verdict.text}
{dated(document.verdict.text)}
![validation loss over the steps](study-curves.svg)

{without(markdown_table(document))}
"""


def main() -> None:
    """Write page and pictures."""
    folder = Folder(sys.argv[1])
    document = load_results(folder.path).document
    names = {
        f"{method}_{condition}": (heading, condition) for method, heading in METHODS.items() for condition in CONDITIONS
    }
    table = rows(document, names)
    write_picture("study.svg", scores_picture(table, document))
    write_picture("study-curves.svg", curves_picture(curves(folder, names), columns=3))
    (DOCS / "study.md").write_text(page(folder, document, table))


if __name__ == "__main__":
    main()

"""Are the scores of a bakeoff what rouge-score gives? `python benchmarks/rescore.py FOLDER [FOLDER ...]`.

Reads predictions.jsonl and the test examples of a run folder, scores every output again with rouge-score alone (none of
bakeoff's code), and compares each score with the record and each mean with results.json. Exits with 1 where any differs
by more than 1e-9.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ALLOWED = 1e-9


def main() -> None:
    """Score every folder again and print the largest differences."""
    worst = max(rescore(Path(name)) for name in sys.argv[1:])
    sys.exit(worst > ALLOWED)


def rescore(folder: Path) -> float:
    """Return the largest difference between a bakeoff's scores and rouge-score's, and print it for each run."""
    references = [row.get("references") or [row["summary"]] for row in rows_of(folder / "data/test.jsonl")]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = {**results["entries"], **results["baselines"]}
    named = {run: name for name, row in rows.items() for run in row["runs"]}
    means: dict[str, dict[str, list[float]]] = {}
    worst = 0.0
    for run, name in named.items():
        predictions = list(rows_of(folder / "runs" / run / "predictions.jsonl"))
        scores = [score(row["output"], texts) for row, texts in zip(predictions, references, strict=True)]
        pairs = [(new[k], old[k]) for new, old in zip(scores, predictions, strict=True) for k in new]
        difference = max(abs(new[letter] - old[letter]) for new, old in pairs for letter in "prf")
        print(f"{folder.name}: {run}: {len(scores)} outputs, {len(pairs)} scores, largest difference {difference:.1e}")
        worst = max(worst, difference)
        for metric in scores[0]:
            mean = sum(row[metric]["f"] for row in scores) / len(scores)
            means.setdefault(name, {}).setdefault(metric, []).append(mean)
    for name, metrics in means.items():
        for metric, seeds in metrics.items():
            worst = max(worst, abs(sum(seeds) / len(seeds) - rows[name]["metrics"][f"test/{metric}"]["mean"]))
    print(f"{folder.name}: largest difference of any score or mean {worst:.1e}")
    return worst


def score(output: str, references: list[str]) -> dict[str, dict[str, float]]:
    """Return rouge-score's scores: means over references, and with several of them the one with the highest F."""
    scorer = RougeScorer(list(TYPES), use_stemmer=True)
    lines, own = [on_lines(text) for text in references], on_lines(output)
    each = [scorer.score(text, own) for text in lines]
    found = {
        name: {
            letter: sum(getattr(one[name], field) for one in each) / len(each)
            for letter, field in (("p", "precision"), ("r", "recall"), ("f", "fmeasure"))
        }
        for name in TYPES
    }
    if len(references) > 1:
        best = scorer.score_multi(lines, own)
        found |= {
            f"{name}_max": {"p": best[name].precision, "r": best[name].recall, "f": best[name].fmeasure}
            for name in TYPES
        }
    return found


def on_lines(text: str) -> str:
    """Return the text with each sentence on a line, by the rule in the signature."""
    return "\n".join(part.strip() for part in re.split(r"\n+|(?<=[.!?])\s+(?![a-z])", text) if part.strip())


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()

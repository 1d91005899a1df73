"""Bakeoffs on real data: `python benchmarks/real_data.py --data FOLDER --model base --output FOLDER [--train 200]`.

FOLDER holds dialogsum/ and scitldr_a/, each with train.jsonl, validation.jsonl, test.jsonl (document, summary) and
test.refs.jsonl (references). Three methods, one seed, no tuning, a sample of the rows; prints each table and verdict.
Two cores train each bakeoff in a minute or two. benchmarks/rescore.py scores the outputs again.
"""

import argparse
from pathlib import Path

import bakeoff

ENTRIES = {
    "prompt_tuning": {"num_virtual_tokens": 20, "learning_rate": 0.05},
    "last_layers": {"learning_rate": 0.001},
    "lora": {"learning_rate": 0.002, "target_modules": "all-linear"},
}


def main() -> None:
    """Run a bakeoff on each data set and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="base")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["dialogsum", "scitldr_a"])
    parser.add_argument("--train", type=int, default=200, help="training examples")
    parser.add_argument("--tokens", type=int, default=256, help="protocol.max_tokens")
    given = parser.parse_args()
    for name in given.sets:
        config = config_of(given.data / name, given.model, given.output, given.train, given.tokens)
        results = bakeoff.run(config, display="plain")
        print(f"\n{results.folder.path.name}\n\n{results}")
        print(*(f"- {finding}" for finding in results.document.data.findings), sep="\n")


def config_of(folder: Path, model: str, output: Path, train: int, tokens: int) -> dict[str, object]:
    """Return the config of one bakeoff."""
    name = f"{folder.name}-{Path(model).name}"
    return {
        "name": name,
        "model": model,
        "data": {
            **{split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
            "references": "references",
            "references_file": str(folder / "test.refs.jsonl"),
            "shared_documents": "drop",
            "train_limit": train,
            "validation_limit": 32,
            "test_limit": 50,
        },
        "entries": ENTRIES,
        "baselines": ["base", "lead-1", "oracle"],
        "tune": None,
        "protocol": {"epochs": 2, "max_tokens": tokens, "seeds": 1},
        "generation": {"max_new_tokens": 40},
        "output": str(output / name),
    }


if __name__ == "__main__":
    main()

"""Copy a data set without its long documents: `python tools/short_documents.py FROM TO [--letters 500]`.

FROM holds train.jsonl, validation.jsonl and test.jsonl (document, summary). Where it also holds test.refs.jsonl, with a
row for each row of test.jsonl (references), the test's rows in TO have these, too.
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    """Copy the splits and say how many rows each has kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO")
    parser.add_argument("--letters", type=int, default=500, help="letters of a document at most")
    given = parser.parse_args()
    given.target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        rows = read(given.source / f"{split}.jsonl")
        references = given.source / f"{split}.refs.jsonl"
        if references.exists():
            rows = [row | more for row, more in zip(rows, read(references), strict=True)]
        kept = [json.dumps(row) + "\n" for row in rows if len(row["document"]) <= given.letters]
        (given.target / f"{split}.jsonl").write_text("".join(kept), encoding="utf-8")
        print(f"{split}: {len(kept)} of {len(rows)}")


def read(file: Path) -> list[dict[str, object]]:
    """Return the rows of a JSONL file."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()

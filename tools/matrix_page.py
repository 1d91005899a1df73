"""Write docs/matrix.md: `python tools/matrix_page.py [KEEP]`.

What has been tested is kept in the folder KEEP (build/matrix), so that an interrupted command resumes. Delete it after
a change of code or of a library.
"""

import sys
from pathlib import Path

from bakeoff.methods import method_names
from bakeoff.store.files import append_jsonl, json_object, read_jsonl
from bakeoff.testing.architectures import architecture_rows, architectures, architectures_page
from bakeoff.testing.matrix import Matrix, capability_matrix, matrix_page

PAGE = Path(__file__).parent.parent / "docs/matrix.md"


def matrix_rows(keep: Path) -> Matrix:
    """Return the cells of each method. Those in the file `keep` are not tested again."""
    rows: Matrix = {}
    for row in read_jsonl(keep, json_object) if keep.exists() else []:
        rows |= row
    for number, name in enumerate(method_names(), 1):
        if name not in rows:
            print(f"{number} of {len(method_names())}: {name}", file=sys.stderr)
            tested = capability_matrix([name])
            append_jsonl(keep, tested)
            rows |= tested
    return {name: rows[name] for name in method_names()}


def main() -> None:
    """Test what is missing, and write the page."""
    keep = Path(sys.argv[1] if len(sys.argv) > 1 else "build/matrix")
    methods = matrix_page(matrix_rows(keep / "methods.jsonl"))
    rows = architecture_rows(
        dict(architectures()), keep / "architectures.jsonl", lambda said: print(said, file=sys.stderr)
    )
    PAGE.write_text(f"{methods}\n\n{architectures_page(rows)}\n")


if __name__ == "__main__":
    main()

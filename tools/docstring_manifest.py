"""Write the docstring task's manifest anew: `python tools/docstring_manifest.py`, after constraints.txt has changed."""

import json
from pathlib import Path

from bakeoff.data.docstrings import manifest_of, read_docstrings

if __name__ == "__main__":
    path = Path(__file__).parent.parent / "src/bakeoff/assets/docstrings.json"
    path.write_text(json.dumps(manifest_of(read_docstrings()), indent=1) + "\n", encoding="utf-8")

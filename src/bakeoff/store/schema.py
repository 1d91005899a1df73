"""The form of plan.json and results.json, by which another version's documents are told from this one's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bakeoff import __version__
from bakeoff.errors import SetupError

SCHEMA: Final = 3


def refuse_other_form(file: Path, document: Mapping[str, Any]) -> None:
    """Raise SetupError if another version of bakeoff made a document, with a schema that this one does not know."""
    schema = document.get("schema", 1)  # the first form had no number
    if schema == SCHEMA or not isinstance(schema, int):  # what is damaged is refused where it is read
        return
    maker = f"{document.get('version')!s:.40}"
    age, cure = ("a newer", f"pip install 'bakeoff>={maker}', or ") if schema > SCHEMA else ("an older", "")
    raise SetupError(
        f"{file}: made by bakeoff {maker} in {age} form (schema {schema!s:.20}) than this bakeoff {__version__} reads "
        f"(schema {SCHEMA}). Try: {cure}-s output=FOLDER, another folder"
    )

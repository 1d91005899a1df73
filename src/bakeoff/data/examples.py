"""Examples: every data source yields them, and everything else reads them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One document with its summary; `group` clusters rows that are not independent (a package, a source).

    `references` are all its summaries if there are several; training uses the first, `summary`. `around` are the texts
    of the prompt before and after the document, if they are not the same for all examples. `columns` are those of its
    row that metrics need.
    """

    id: str
    document: str
    summary: str
    group: str = ""
    references: tuple[str, ...] = ()
    around: tuple[str, str] | None = None
    columns: dict[str, Any] | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Example":
        """Return the example of which `row` was made."""
        around = row.get("around")
        others = {"references": tuple(row.get("references", ())), "around": (around[0], around[1]) if around else None}
        return cls(**{**row, **others})

    def row(self) -> dict[str, Any]:
        """Return the example as plain data; with `references` only if there are several."""
        row: dict[str, Any] = {"id": self.id, "document": self.document, "summary": self.summary, "group": self.group}
        row |= {"references": list(self.references)} if self.references else {}
        row |= {"columns": self.columns} if self.columns is not None else {}
        return row | ({"around": list(self.around)} if self.around else {})

    @property
    def content_hash(self) -> int:
        """The first 64 bits of a hash of the texts, which chooses examples for a limit and shows changes."""
        texts = "\0".join((self.document, *(self.references or (self.summary,)), *(self.around or ())))
        return hash_of_text(texts)

    @property
    def origin(self) -> int:
        """The first 64 bits of a hash of id, group and columns, on which no training depends."""
        columns = "" if self.columns is None else f"\0{json.dumps(self.columns, sort_keys=True)}"
        return hash_of_text(f"{self.id}\0{self.group}{columns}")


def hash_of_text(text: str) -> int:
    """Return the first 64 bits of a text's hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

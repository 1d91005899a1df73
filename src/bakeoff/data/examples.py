"""Examples: every data source yields them, and everything else reads them."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
Turn = tuple[str, str]  # of a conversation: role and text


@dataclass(frozen=True, slots=True)
class Example:
    """One document with its summary; `group` clusters rows that are not independent (a package, a source).

    `references` are all its summaries if there are several; training uses the first, `summary`. `around` are the texts
    of the prompt before and after the document, if they are not the same for all examples. `columns` are those of its
    row that metrics need. `turns` are all turns of a conversation before the `summary`, which is its last answer; then
    `document` is the text of the last user's turn.
    """

    id: str
    document: str
    summary: str
    group: str = ""
    references: tuple[str, ...] = ()
    around: tuple[str, str] | None = None
    columns: dict[str, Any] | None = None
    turns: tuple[Turn, ...] = ()

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Example":
        """Return the example of which `row` was made."""
        around = row.get("around")
        others = {"references": tuple(row.get("references", ())), "around": (around[0], around[1]) if around else None}
        turns = tuple((role, text) for role, text in row.get("turns", ()))
        return cls(**{**row, **others, "turns": turns})

    def row(self) -> dict[str, Any]:
        """Return the example as plain data; with `references` only if there are several."""
        row: dict[str, Any] = {"id": self.id, "document": self.document, "summary": self.summary, "group": self.group}
        row |= {"references": list(self.references)} if self.references else {}
        row |= {"columns": self.columns} if self.columns is not None else {}
        row |= {"around": list(self.around)} if self.around else {}
        return row | ({"turns": [list(turn) for turn in self.turns]} if self.turns else {})

    @property
    def source(self) -> str:
        """All that the summary is an answer to: the document, or the turns of a conversation as one text."""
        return "\n".join(f"{role}: {text}" for role, text in self.turns) if self.turns else self.document

    @property
    def content_hash(self) -> int:
        """The first 64 bits of a hash of the texts, which chooses examples for a limit and shows changes."""
        turns = (part for turn in self.turns for part in turn)
        texts = (self.document, *(self.references or (self.summary,)), *(self.around or ()), *turns)
        return hash_of_text("\0".join(texts))

    @property
    def origin(self) -> int:
        """The first 64 bits of a hash of id, group and columns, on which no training depends."""
        columns = "" if self.columns is None else f"\0{json.dumps(self.columns, sort_keys=True)}"
        return hash_of_text(f"{self.id}\0{self.group}{columns}")


def shortened(example: Example) -> list[Example]:
    """Return a conversation as it is, without its oldest question and answer, without two of them, and so on."""
    first = 1 if example.turns[0][0] == SYSTEM else 0
    starts = [n for n, (role, _) in enumerate(example.turns) if role == USER]
    system = example.turns[:first]
    return [replace(example, turns=(*system, *example.turns[start:])) for start in starts]


def hash_of_text(text: str) -> int:
    """Return the first 64 bits of a text's hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

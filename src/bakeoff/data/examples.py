"""Examples: what every data source yields and everything else reads."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One document with its summary; `group` clusters rows that are not independent (a package, a source)."""

    id: str
    document: str
    summary: str
    group: str = ""

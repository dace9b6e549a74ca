"""Raw rows as the readers hand them on."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal


class RowProblem(Exception):
    """Why one row cannot be used; never leaves this package."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its 1-based line or row number and its values by column."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot even be read, and why."""

    number: int
    reason: str


Rows = Generator[Row | BadRow, None, None]
"""A stream of rows; to be closed by who reads it, since a file may be open behind it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from. `rows` can be consumed once; it may raise `DataError`."""

    name: str
    unit: Literal["line", "row"]
    rows: Rows

    def where(self, number: int) -> str:
        """`train.jsonl, line 17`."""
        return f"{self.name}, {self.unit} {number}"


def describe(value: object) -> str:
    """A value in an error message: its type and the start of its text."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"

"""Counts rows that cannot be used."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gossamer.errors import DataError

PROBLEMS_KEPT = 5


@dataclass
class BadRowTally:
    """Counts bad rows; the first raises unless they are to be skipped."""

    where: Callable[[int], str]
    """How a row of that number is called in a message."""
    skip: bool
    count: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        """Take note of the bad row `number`; raises `DataError` unless such are skipped."""
        problem = f"{self.where(number)}: {reason}"
        if not self.skip:
            raise DataError(f"{problem} (--skip-bad-rows leaves such rows out)")
        self.count += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)

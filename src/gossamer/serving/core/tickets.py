"""Stands for a copy into the pool that may still be under way when its maker returns."""

from dataclasses import dataclass
from typing import Any, Protocol


class Ticket(Protocol):
    """A copy that was begun.

    The memory that it reads is kept until it is done; the memory that it writes must not be given
    to anyone else before.
    """

    @property
    def done(self) -> bool:
        """Whether all has been written, so that a step launched from now on may read it. Never
        blocks; raises what has made the copy fail."""

    def result(self) -> Any:
        """Return what finds the things written (an adapter's table); needs not be done."""

    def wait(self) -> None:
        """Make steps launched from now on wait for the copy; the caller does not."""

    def join(self) -> None:
        """Block the caller until it is done; for threads that have nothing else to do."""


@dataclass(frozen=True, slots=True)
class DoneTicket:
    """The ticket of a copy that was done when its maker returned, as on a CPU."""

    value: Any = None
    """What `result` returns."""

    @property
    def done(self) -> bool:
        """Return True."""
        return True

    def result(self) -> Any:
        """See `Ticket.result`."""
        return self.value

    def wait(self) -> None:
        """Do nothing: all has been written."""

    def join(self) -> None:
        """Do nothing: all has been written."""

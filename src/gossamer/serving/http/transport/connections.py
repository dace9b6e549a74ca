"""Decides how many connections there may be, and which is closed for a new one. Pure policy."""

import logging
from collections import Counter
from typing import Literal, Protocol, TypeVar

log = logging.getLogger("gossamer.http")

RESERVE = 16
"""The connections beyond the limit on which /health is answered and nothing else."""

FILES_KEPT = 64
"""The open files that connections leave to the rest of the process: adapters, logs, key file."""

Cut = Literal["head", "body", "idle", "write", "room", "full"]
CUTS: tuple[Cut, ...] = ("head", "body", "idle", "write", "room", "full")
"""The reasons why the server closes a connection: the client took too long over its head or its
body, was idle, or did not read; a new connection needed the room; there was no room at all."""

Seat = Literal["full", "reserve", "regular"]


class Connection(Protocol):
    """The part of a connection that the policy knows."""

    def give_way(self) -> None:
        """Close the connection at once; it calls `Connections.leave`, now or soon."""


C = TypeVar("C", bound=Connection)


class Connections:
    """All open connections; those that wait for their client in the order in which they began to.

    Used on the event loop only.
    """

    def __init__(self, limit: int, reserve: int = RESERVE) -> None:
        self._limit = limit
        self._reserve = reserve
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        self.cuts: Counter[Cut] = Counter(dict.fromkeys(CUTS, 0))
        """The number of connections that the server closed, by reason."""

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection) -> Seat:
        """Take a new connection. "reserve" is for /health only; a "full" one was not taken."""
        if len(self._open) >= self._limit and self._waiting:
            self._dismiss(next(iter(self._waiting)))
        if len(self._open) >= self._limit + self._reserve:
            self.cuts["full"] += 1
            return "full"
        is_regular = len(self._open) < self._limit
        self._open.add(connection)
        return "regular" if is_regular else "reserve"

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def wait_for(self, connection: Connection) -> None:
        """Note that the client is to send something: from now on it may be closed for a new one."""
        if connection in self._open:
            self._waiting.setdefault(connection)

    def work_for(self, connection: Connection) -> None:
        """Note that the client has sent all that is needed."""
        self._waiting.pop(connection, None)

    def _dismiss(self, connection: Connection) -> None:
        self.cuts["room"] += 1
        self.leave(connection)
        connection.give_way()


def limit_of_connections(wanted: int) -> int:
    """Limit `wanted` to the open files that this process may have; raises its soft limit first."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    needed = wanted + RESERVE + FILES_KEPT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit = max(1, min(wanted, soft - RESERVE - FILES_KEPT))
    if limit < wanted:
        log.warning(
            "at most %d connections instead of %d: this process may open %d files (ulimit -n)",
            limit,
            wanted,
            soft,
        )
    return limit

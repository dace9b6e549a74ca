"""Transactions of SQLite that never fail because another one wrote: writers wait at the beginning.

A transaction that reads and then writes would fail when another has written meanwhile, whatever the
timeout; so a writing transaction takes the write lock at its beginning, and one that only reads
says so by going through `reading`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON")
_READING = "gossamer_reading"


def writers_wait(engine: "Engine") -> "Engine":
    """Have transactions on `engine`, which is SQLite's, take the write lock at their beginning,
    wait for it up to 30 seconds, and survive a power loss once committed; returns `engine`."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # The driver must not begin transactions by itself.
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: "Connection") -> None:
        is_reading = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine


def reading(engine: "Engine") -> "Engine":
    """`engine` for transactions that only read, which wait for no writer; also on PostgreSQL."""
    return engine.execution_options(**{_READING: True})

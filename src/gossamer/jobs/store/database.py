"""The database: one engine, reading and writing transactions, SQLite by default.

Sessions are synchronous and short: no file is touched and nothing is awaited inside.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from gossamer.errors import SettingError, StorageError
from gossamer.extras import require
from gossamer.jobs.store.tables import TableRow
from gossamer.sqlite import reading, writers_wait

log = logging.getLogger("gossamer.jobs")


class Database:
    """An engine for the database of `url`, and the two kinds of transactions."""

    def __init__(self, url: str) -> None:
        self.engine = _make_engine(url)
        self._reader = reading(self.engine)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads."""
        with _reachable(), Session(self._reader, autoflush=False) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write; it is committed at the end, or undone by an exception."""
        with _reachable(), Session(self.engine) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextmanager
def _reachable() -> Iterator[None]:
    """Tell as a `StorageError` that the database cannot be had: full, locked, away, or damaged."""
    try:
        yield
    except (DatabaseError, InterfaceError, PoolTimeout) as error:
        remedy = "free its disk, or start its server"
        if type(error) is DatabaseError:
            remedy = "its file is damaged: put a copy in its place"
        elif not isinstance(error, OperationalError | InterfaceError | PoolTimeout):
            raise
        lines = str(getattr(error, "orig", None) or error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise StorageError(f"the database cannot be used: {reason}; {remedy}") from error


def insert_missing(session: Session, table: type[TableRow], **values: Any) -> bool:
    """Insert a row unless there is one of its key; returns whether it was inserted.

    It waits for another transaction that has inserted or removed the same row.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
    # Not every driver counts such rows.
    inserted = session.connection().execute(statement.returning(*inspect(table).primary_key))
    return inserted.first() is not None


def one_at_a_time(session: Session, what: str) -> None:
    """Let no other transaction that names the same `what` go on before this one ends.

    For rules over several rows. In SQLite one writing transaction runs at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")
        session.execute(lock, {"what": what})


def _make_engine(url: str) -> Engine:
    """Build the engine; raises `SettingError` for a URL of another kind."""
    require("--jobs", "studio")
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingError(
            "--database is no URL; give one such as postgresql+psycopg://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return writers_wait(create_engine(parsed))
    if backend != "postgresql":
        raise SettingError(f"--database {backend}: only sqlite and postgresql are known")
    require("--database postgresql", "postgres")
    return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)

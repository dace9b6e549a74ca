"""The catalog: which content each adapter's name means now, in a database that all servers ask.

A row of the catalog changes in one transaction, so that all who ask see the former content or the
new one. SQLite serves one machine, PostgreSQL several.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gossamer.errors import RequestError, SettingError, StorageError
from gossamer.extras import require
from gossamer.serving.store.folder import MAX_NAME, is_plain
from gossamer.sqlite import reading, writers_wait

_METADATA = MetaData()
_ADAPTERS = Table(
    "published_adapters",
    _METADATA,
    Column("name", String(MAX_NAME), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("place", String(500), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("rank", Integer),
    Column("published", Float, nullable=False),
    Column("version", BigInteger, nullable=False),
)
_STATE = Table(
    "published_state",
    _METADATA,
    Column("number", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)
_ONLY = 1
_LOCK = 7_466_551
"""A number of our own, under which one process at a time makes the tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAdapter:
    """Shows what a name means: a row of the catalog."""

    name: str
    digest: str
    """The digest of weights and config."""
    place: str
    """Where the folder lies in the store, as a path with forward slashes."""
    num_bytes: int
    """Size of the folder's files."""
    kind: str
    """What it does at inference, such as low-rank."""
    rank: int | None
    """Largest rank of any module."""
    published: float
    """Unix time of its publication."""
    version: int
    """A number that grows with every change of the catalog."""


class AdapterCatalog:
    """The names of one base's adapters and what they mean. Any thread may ask."""

    def __init__(self, url: str) -> None:
        """Use the database of `url`, and make the tables that are missing.

        Raises `SettingError` for a URL that names no such database, `StorageError` if it cannot be
        used.
        """
        self.url = parse_url(url)
        self._engine = _make_engine(self.url)
        self._reader = reading(self._engine)
        with self._writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            _METADATA.create_all(connection)
            if connection.execute(select(_STATE.c.version)).first() is None:
                connection.execute(insert(_STATE).values(number=_ONLY, version=0))

    def find(self, name: str) -> PublishedAdapter | None:
        """Return what `name` means now; None if nothing."""
        with self._reading() as connection:
            row = connection.execute(select(_ADAPTERS).where(_ADAPTERS.c.name == name)).first()
        return None if row is None else _record(row)

    def page(self, after: str = "", limit: int = 1000) -> list[PublishedAdapter]:
        """List at most `limit` adapters in the order of names, from the first one after `after`."""
        query = (
            select(_ADAPTERS)
            .where(_ADAPTERS.c.name > after)
            .order_by(_ADAPTERS.c.name)
            .limit(limit)
        )
        with self._reading() as connection:
            return list(map(_record, connection.execute(query)))

    def count(self) -> int:
        """Count the adapters that have a name."""
        with self._reading() as connection:
            return connection.execute(select(func.count()).select_from(_ADAPTERS)).scalar_one()

    def names_like(self, name: str, limit: int = 500) -> list[str]:
        """List names that begin as `name` does, or any, for a message about an unknown one."""
        begin = name[:2].replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = select(_ADAPTERS.c.name).order_by(_ADAPTERS.c.name).limit(limit)
        alike = query.where(_ADAPTERS.c.name.like(f"{begin}%", escape="\\"))
        with self._reading() as connection:
            found = connection.execute(alike).scalars().all()
            return list(found or connection.execute(query).scalars().all())

    def version(self) -> int:
        """Return the number of the last change; 0 where there was none."""
        with self._reading() as connection:
            return connection.execute(select(_STATE.c.version)).scalar() or 0

    def move(
        self, name: str, *, digest: str, place: str, num_bytes: int, kind: str, rank: int | None
    ) -> PublishedAdapter | None:
        """Let `name` mean other content from now on; returns what it meant before.

        Raises `RequestError` for what cannot be a name.
        """
        check_published_name(name)
        values = {
            "digest": digest,
            "place": place,
            "num_bytes": num_bytes,
            "kind": kind,
            "rank": rank,
            "published": time.time(),
        }
        with self._writing() as connection:
            version = _next_version(connection)
            former = connection.execute(select(_ADAPTERS).where(_ADAPTERS.c.name == name)).first()
            values["version"] = version
            if former is None:
                connection.execute(insert(_ADAPTERS).values(name=name, **values))
            else:
                connection.execute(update(_ADAPTERS).where(_ADAPTERS.c.name == name).values(values))
        return None if former is None else _record(former)

    def withdraw(self, name: str) -> bool:
        """Let `name` mean nothing from now on; whether it meant anything."""
        with self._writing() as connection:
            _next_version(connection)
            return (
                connection.execute(delete(_ADAPTERS).where(_ADAPTERS.c.name == name)).rowcount > 0
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _reachable(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _reachable(), self._engine.begin() as connection:
            yield connection


def check_published_name(name: str) -> None:
    """Raise `RequestError` for what cannot be the name of an adapter."""
    if not is_plain(name):
        raise RequestError(
            f"'{name[:MAX_NAME]}' cannot be an adapter's name; use at most {MAX_NAME} printable "
            "characters other than / \\ + :",
            param="name",
        )


def default_store(url: str) -> Path | None:
    """Return the folder of a SQLite catalog, beside which its adapters lie unless told otherwise;
    None for a database that is no file. Raises `SettingError`."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database).absolute().parent


def parse_url(url: str) -> URL:
    """Read the URL of a catalog. Raises `SettingError`, which repeats no password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingError(
            "--catalog is no URL; give one such as sqlite:////shared/catalog.db or "
            "postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if backend == "sqlite":
        raise SettingError("--catalog sqlite: name a file, such as sqlite:////shared/catalog.db")
    if backend != "postgresql":
        raise SettingError(f"--catalog {backend}: only sqlite and postgresql are known")
    require("--catalog postgresql", "postgres")
    return parsed.set(drivername="postgresql+psycopg")


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
    folder = Path(url.database or "").absolute().parent
    if not folder.is_dir():
        raise SettingError(f"--catalog: the folder {folder} does not exist; make it first")
    return writers_wait(create_engine(url))


def _next_version(connection: Connection) -> int:
    """Count one more change. Its row is locked until the transaction ends: one at a time."""
    connection.execute(update(_STATE).values(version=_STATE.c.version + 1))
    return connection.execute(select(_STATE.c.version)).scalar_one()


def _record(row: Row[Any]) -> PublishedAdapter:
    return PublishedAdapter(**row._mapping)


@contextmanager
def _reachable() -> Iterator[None]:
    """Tell as a `StorageError` that the database cannot be had: full, locked, away or damaged."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        lines = str(getattr(error, "orig", None) or error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise StorageError(
            f"the catalog cannot be used: {reason}; free its disk, start its server, or look "
            "whether --catalog is right"
        ) from error

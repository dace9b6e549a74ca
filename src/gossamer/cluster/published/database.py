"""The database of a catalog: its tables, and transactions whose errors are sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gossamer.errors import SettingError, StorageError, cut
from gossamer.extras import require
from gossamer.serving.store.folder import MAX_NAME
from gossamer.sqlite import reading, writers_wait

METADATA = MetaData()
NAMES = Table(
    "published_adapters",
    METADATA,
    Column("name", String(MAX_NAME), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("place", String(500), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("rank", Integer),
    Column("published", Float, nullable=False),
    Column("version", BigInteger, nullable=False),
)
FORMER = Table(
    "published_former",
    METADATA,
    Column("place", String(500), primary_key=True),
    Column("name", String(MAX_NAME), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("ended", Float, nullable=False, index=True),
    Column("removing", Boolean, nullable=False),
)
ASKED = Table(
    "published_asked",
    METADATA,
    Column("name", String(MAX_NAME), primary_key=True),
    Column("score", Float, nullable=False, index=True),
)
_PLACES = Index("published_adapters_place", NAMES.c.place)
STATE = Table(
    "published_state",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
)
_PATIENCE = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""How long a server of PostgreSQL that does not answer is waited for: 5 seconds for a connection,
about 10 (which are given in milliseconds) where the line is cut. The URL may say otherwise."""
_ONLY = 1
_LOCK = 7_466_551
"""A number of our own, under which one process at a time makes the tables."""


class CatalogDatabase:
    """The connections to one database. Any thread may ask."""

    def __init__(self, url: str) -> None:
        """Use the database of `url`, and make the tables that are missing.

        Raises `SettingError` for a URL that names no such database, `StorageError` if it cannot be
        used.
        """
        self._engine = _make_engine(parse_url(url))
        self._reader = reading(self._engine)
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            METADATA.create_all(connection)
            # Catalogs of former versions have the table without it.
            _PLACES.create(connection, checkfirst=True)
            if connection.execute(select(STATE.c.version)).first() is None:
                connection.execute(insert(STATE).values(number=_ONLY, version=0))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin a transaction that only reads, and waits for no writer. Raises `StorageError`."""
        with _reachable(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Begin a transaction that writes. Raises `StorageError`."""
        with _reachable(), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def lock(connection: Connection) -> None:
    """Let no other change begin before this transaction ends. (SQLite does so at its beginning.)"""
    connection.execute(select(STATE.c.version).with_for_update())


def default_store(url: str) -> Path | None:
    """Return the folder of a SQLite catalog, beside which its adapters lie unless told otherwise;
    None for a database that is no file. Raises `SettingError`."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database).absolute().parent


def absolute_url(url: str) -> str:
    """Return the URL with the whole path of a SQLite file, for processes whose working folder is
    another one. Raises `SettingError`."""
    parsed = parse_url(url)
    path = parsed.database or ""
    # SQLite's own kind of URL says itself what it is relative to.
    if parsed.get_backend_name() != "sqlite" or path.startswith("file:"):
        return url
    return parsed.set(database=str(Path(path).absolute())).render_as_string(hide_password=False)


def parse_url(url: str) -> URL:
    """Read the URL of a catalog. Raises `SettingError`, which repeats no password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise SettingError(
            "--catalog is no URL; give one such as sqlite:////shared/catalog.db or "
            "postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise SettingError(
            f"--catalog {cut(parsed.drivername)}: SQLite has one driver here; write sqlite:///"
        )
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
        return create_engine(
            url,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={k: v for k, v in _PATIENCE.items() if k not in url.query},
        )
    folder = Path(url.database or "").absolute().parent
    if not folder.is_dir():
        raise SettingError(f"--catalog: the folder {folder} does not exist; make it first")
    return writers_wait(create_engine(url))


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

"""The catalog: which content each adapter's name means now, in a database that all servers ask.

A row of the catalog changes in one transaction, so that all who ask see the former content or the
new one. What a name meant before is remembered with the moment at which that ended, until its files
are removed (`prune`). SQLite serves one machine, PostgreSQL several.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from gossamer.cluster.published.asked import AskedCounts
from gossamer.cluster.published.database import ASKED, FORMER, NAMES, STATE, CatalogDatabase, lock
from gossamer.errors import RequestError, StorageError
from gossamer.serving.store.folder import MAX_NAME, is_plain


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerVersion:
    """Shows files in the store that no name means any more, or that one is about to mean."""

    place: str
    """Where the folder lies in the store."""
    name: str
    """What meant it last."""
    num_bytes: int
    """Size of the folder's files; 0 where that is not known."""
    ended: float
    """Unix time since which no name means it."""


class AdapterCatalog:
    """The names of one base's adapters and what they mean. Any thread may ask."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Use the database of `url`, and make the tables that are missing. `clock` gives Unix time.

        Raises `SettingError` for a URL that names no such database, `StorageError` if it cannot be
        used.
        """
        self._clock = clock
        self._database = CatalogDatabase(url)
        self.asked = AskedCounts(self._database, clock)

    def find(self, name: str) -> PublishedAdapter | None:
        """Return what `name` means now; None if nothing."""
        with self._database.reading() as connection:
            row = connection.execute(select(NAMES).where(NAMES.c.name == name)).first()
        return None if row is None else _record(row)

    def page(self, after: str = "", limit: int = 1000) -> list[PublishedAdapter]:
        """List at most `limit` adapters in the order of names, from the first one after `after`."""
        query = select(NAMES).where(NAMES.c.name > after).order_by(NAMES.c.name).limit(limit)
        with self._database.reading() as connection:
            return list(map(_record, connection.execute(query)))

    def count(self) -> int:
        """Count the adapters that have a name."""
        with self._database.reading() as connection:
            return connection.execute(select(func.count()).select_from(NAMES)).scalar_one()

    def names_like(self, name: str, limit: int = 500) -> list[str]:
        """List names that begin as `name` does, or any, for a message about an unknown one."""
        return [each.name for each in self.like(name, limit)]

    def like(self, name: str, limit: int = 500) -> list[PublishedAdapter]:
        """List the adapters whose names are those of `names_like`."""
        begin = name[:2].replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = select(NAMES).order_by(NAMES.c.name).limit(limit)
        alike = query.where(NAMES.c.name.like(f"{begin}%", escape="\\"))
        with self._database.reading() as connection:
            found = connection.execute(alike).all() or connection.execute(query).all()
            return list(map(_record, found))

    def version(self) -> int:
        """Return the number of the last change; 0 where there was none."""
        with self._database.reading() as connection:
            return connection.execute(select(STATE.c.version)).scalar() or 0

    def move(
        self, name: str, *, digest: str, place: str, num_bytes: int, kind: str, rank: int | None
    ) -> PublishedAdapter | None:
        """Let `name` mean other content from now on; returns what it meant before.

        `place` is one that was reserved with `reserve`, if its files are to be safe from being
        removed before this. Raises `RequestError` for what cannot be a name, `StorageError` while
        the files at `place` are being removed.
        """
        check_published_name(name)
        values = {
            "digest": digest,
            "place": place,
            "num_bytes": num_bytes,
            "kind": kind,
            "rank": rank,
            "published": self._clock(),
        }
        with self._database.writing() as connection:
            version = _next_version(connection)
            _require_there(connection, place)
            connection.execute(delete(FORMER).where(FORMER.c.place == place))
            former = connection.execute(select(NAMES).where(NAMES.c.name == name)).first()
            values["version"] = version
            if former is None:
                connection.execute(insert(NAMES).values(name=name, **values))
            else:
                connection.execute(update(NAMES).where(NAMES.c.name == name).values(values))
                if former.place != place:
                    self._end(connection, former.place, name, former.num_bytes)
        return None if former is None else _record(former)

    def withdraw(self, name: str) -> bool:
        """Let `name` mean nothing from now on; whether it meant anything."""
        with self._database.writing() as connection:
            _next_version(connection)
            former = connection.execute(select(NAMES).where(NAMES.c.name == name)).first()
            if former is None:
                return False
            connection.execute(delete(NAMES).where(NAMES.c.name == name))
            connection.execute(delete(ASKED).where(ASKED.c.name == name))
            self._end(connection, former.place, name, former.num_bytes)
        return True

    def reserve(self, name: str, place: str) -> None:
        """Keep the files at `place`, which `name` is about to mean, as if that had ended just now.

        Raises `StorageError` while those that are there are being removed.
        """
        with self._database.writing() as connection:
            lock(connection)
            _require_there(connection, place)
            if not _is_meant(connection, place):
                self._end(connection, place, name, 0)

    def note_unnamed(self, places: Iterable[str]) -> int:
        """Remember those of `places` that no name means and that were not known, as if they had
        ended just now; how many there were.

        Each is adapters/NAME/DIGEST.
        """
        count = 0
        with self._database.writing() as connection:
            lock(connection)
            for place in places:
                known = select(FORMER.c.place).where(FORMER.c.place == place)
                if _is_meant(connection, place) or connection.execute(known).first() is not None:
                    continue
                self._end(connection, place, place.split("/")[1], 0)
                count += 1
        return count

    def former(self, before: float, after: str = "", limit: int = 500) -> list[FormerVersion]:
        """List versions that have ended before the Unix time `before`, at most `limit` in the order
        of places, from the first one after `after`."""
        query = (
            select(FORMER.c.place, FORMER.c.name, FORMER.c.num_bytes, FORMER.c.ended)
            .where(FORMER.c.ended < before, FORMER.c.place > after)
            .order_by(FORMER.c.place)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [FormerVersion(**row._mapping) for row in connection.execute(query)]

    def count_former(self) -> int:
        """Count the versions that no name means and whose files have not been removed."""
        with self._database.reading() as connection:
            return connection.execute(select(func.count()).select_from(FORMER)).scalar_one()

    def begin_removing(self, place: str, before: float) -> bool:
        """Mark a version whose files are about to be removed; no name can come to mean it until
        `end_removing`. False where it has not ended before `before`, or is meant again."""
        with self._database.writing() as connection:
            lock(connection)
            ended = (FORMER.c.place == place) & (FORMER.c.ended < before)
            if _is_meant(connection, place):
                return False
            marked = connection.execute(update(FORMER).where(ended).values(removing=True))
            return marked.rowcount > 0

    def end_removing(self, place: str) -> None:
        """Forget a version whose files have been removed."""
        with self._database.writing() as connection:
            connection.execute(delete(FORMER).where(FORMER.c.place == place))

    def _end(self, connection: Connection, place: str, name: str, num_bytes: int) -> None:
        """Note that no name means the files at `place` from now on."""
        connection.execute(delete(FORMER).where(FORMER.c.place == place))
        values = {"name": name, "num_bytes": num_bytes, "ended": self._clock(), "removing": False}
        connection.execute(insert(FORMER).values(place=place, **values))

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


def check_published_name(name: str) -> None:
    """Raise `RequestError` for what cannot be the name of an adapter."""
    if not is_plain(name):
        raise RequestError(
            f"'{name[:MAX_NAME]}' cannot be an adapter's name; use at most {MAX_NAME} printable "
            "characters other than / \\ + :",
            param="name",
        )


def _next_version(connection: Connection) -> int:
    """Count one more change. Its row is locked until the transaction ends: one at a time."""
    connection.execute(update(STATE).values(version=STATE.c.version + 1))
    return connection.execute(select(STATE.c.version)).scalar_one()


def _is_meant(connection: Connection, place: str) -> bool:
    query = select(NAMES.c.name).where(NAMES.c.place == place).limit(1)
    return connection.execute(query).first() is not None


def _require_there(connection: Connection, place: str) -> None:
    """Raise `StorageError` while the files at `place` are being removed."""
    query = select(FORMER.c.removing).where(FORMER.c.place == place)
    if connection.execute(query).scalar():
        raise StorageError(
            f"{place} is being removed from the store; wait until `gossamer cluster prune` has "
            "ended, run it again if it was interrupted, and publish again"
        )


def _record(row: Row[Any]) -> PublishedAdapter:
    return PublishedAdapter(**row._mapping)

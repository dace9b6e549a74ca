"""How often adapters are asked for, over all ingresses and their restarts: who is to be warmed.

Of each name one number is kept, the logarithm of a count that halves every `HALF_LIFE` seconds. It
is so chosen that it need not be changed as time goes by: the order of names is that of the numbers.
"""

import math
from collections.abc import Callable, Mapping

from sqlalchemy import delete, insert, select

from gossamer.cluster.published.database import ASKED, NAMES, CatalogDatabase, lock

HALF_LIFE = 6 * 3600.0
"""Seconds after which a request counts half."""
_CHUNK = 500
"""Names of one question, which databases bound."""


class AskedCounts:
    """Counts the requests of each name. Any thread may ask."""

    def __init__(self, database: CatalogDatabase, clock: Callable[[], float]) -> None:
        """`clock` gives Unix time."""
        self._database, self._clock = database, clock

    def add(self, counts: Mapping[str, int]) -> None:
        """Count that many more requests for each name, just now. Raises `StorageError`."""
        names, now = sorted(counts), self._clock() / HALF_LIFE
        if not names:
            return
        with self._database.writing() as connection:
            lock(connection)
            for begin in range(0, len(names), _CHUNK):
                chunk = names[begin : begin + _CHUNK]
                query = select(ASKED.c.name, ASKED.c.score).where(ASKED.c.name.in_(chunk))
                former = {row.name: row.score for row in connection.execute(query)}
                connection.execute(delete(ASKED).where(ASKED.c.name.in_(chunk)))
                rows = [
                    {"name": name, "score": _sum(former.get(name), math.log2(counts[name]) + now)}
                    for name in chunk
                ]
                connection.execute(insert(ASKED), rows)

    def most(self, limit: int) -> dict[str, float]:
        """Return the names that are asked for most, at most `limit`, the first one first, with
        their fading counts; only those that mean something. Raises `StorageError`."""
        query = (
            select(ASKED.c.name, ASKED.c.score)
            .join(NAMES, NAMES.c.name == ASKED.c.name)
            .order_by(ASKED.c.score.desc(), ASKED.c.name)
            .limit(limit)
        )
        now = self._clock() / HALF_LIFE
        with self._database.reading() as connection:
            return {row.name: 2.0 ** (row.score - now) for row in connection.execute(query)}


def _sum(one: float | None, other: float) -> float:
    """The logarithm of the sum of what both are logarithms of; None is that of nothing."""
    if one is None:
        return other
    least, most = sorted((one, other))
    return most + math.log2(1.0 + 2.0 ** (least - most))

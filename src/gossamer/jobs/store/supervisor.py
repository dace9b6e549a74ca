"""The one row that says which server watches over workers, and how fast steps have been."""

import time
from collections.abc import Callable

from sqlalchemy import select

from gossamer.jobs.store.database import Database, insert_missing
from gossamer.jobs.store.records import SpeedRecord, SupervisorRecord, record
from gossamer.jobs.store.tables import SpeedRow, SupervisorRow

_ID = 1
_MEMORY = 20
"""Samples after which an old speed has lost most of its weight."""


class SupervisorTable:
    """Who is the supervisor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self) -> SupervisorRecord | None:
        """The row; None before the first server has begun."""
        with self._database.read() as session:
            row = session.get(SupervisorRow, _ID)
            return None if row is None else record(SupervisorRecord, row)

    def take(
        self, candidate: SupervisorRecord, has_ended: Callable[[SupervisorRecord], bool]
    ) -> bool:
        """Become the supervisor if there is none; returns whether `candidate` is it now.

        One whose lease has run out is replaced, and one at once of which `has_ended` knows that its
        process is gone.
        """
        with self._database.write() as session:
            insert_missing(session, SupervisorRow, id=_ID, **_values(candidate))
            query = select(SupervisorRow).where(SupervisorRow.id == _ID).with_for_update()
            row = session.scalars(query).one()
            before = record(SupervisorRecord, row)
            is_free = (
                before.owner in ("", candidate.owner)
                or before.lease_until < time.time()
                or has_ended(before)
            )
            if is_free:
                for name, value in _values(candidate).items():
                    setattr(row, name, value)
            return is_free

    def renew(self, owner: str, lease_until: float) -> bool:
        """Lengthen the lease; False if another has become the supervisor."""
        with self._database.write() as session:
            query = select(SupervisorRow).where(SupervisorRow.owner == owner).with_for_update()
            row = session.scalars(query).one_or_none()
            if row is not None:
                row.lease_until = lease_until
            return row is not None

    def leave(self, owner: str, workers_until: float) -> None:
        """Stop being the supervisor; workers that are left to themselves go on until then."""
        with self._database.write() as session:
            query = select(SupervisorRow).where(SupervisorRow.owner == owner).with_for_update()
            row = session.scalars(query).one_or_none()
            if row is not None:
                row.owner, row.lease_until = "", workers_until


def _values(supervisor: SupervisorRecord) -> dict[str, str | int | float]:
    return {
        "owner": supervisor.owner,
        "place": supervisor.place,
        "pid": supervisor.pid,
        "pid_started": supervisor.pid_started,
        "lease_until": supervisor.lease_until,
    }


class SpeedTable:
    """How long tokens took, for estimates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, machine: str, model: str, method: str, dtype: str, threads: int
    ) -> SpeedRecord | None:
        """What was measured; None: nothing yet."""
        with self._database.read() as session:
            row = session.get(SpeedRow, (machine, model, method, dtype, threads))
            return None if row is None else record(SpeedRecord, row)

    def add(
        self,
        machine: str,
        model: str,
        method: str,
        dtype: str,
        threads: int,
        *,
        seconds_per_token: float,
    ) -> None:
        """Add the mean of a finished run to the moving one."""
        now = time.time()
        key = (machine, model, method, dtype, threads)
        with self._database.write() as session:
            names = ("machine", "model", "method", "dtype", "threads")
            insert_missing(
                session,
                SpeedRow,
                **dict(zip(names, key, strict=True)),
                seconds_per_token=seconds_per_token,
                samples=0,
                updated=now,
            )
            row = session.get_one(SpeedRow, key, with_for_update=True)
            row.samples += 1
            share = 1 / min(row.samples, _MEMORY)
            row.seconds_per_token += share * (seconds_per_token - row.seconds_per_token)
            row.updated = now

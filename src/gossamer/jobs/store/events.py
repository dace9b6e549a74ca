"""Lifecycle events of jobs, numbered without a gap.

An event is written in the transaction of the change that it tells of, so there is never one
without the other. The row of the job is locked meanwhile, which puts the numbers in order.
"""

import time
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gossamer.jobs.store.database import Database
from gossamer.jobs.store.records import JobEventRecord, record
from gossamer.jobs.store.scoped import Tenant, fetch
from gossamer.jobs.store.tables import JobEventRow, JobRow

Level = Literal["info", "warn", "error"]


class EventTable:
    """The events of all jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all_of(self, tenant: Tenant, job_id: str, *, since: int = 0) -> list[JobEventRecord]:
        """Events of a job after the number `since`, the oldest first; raises `UnknownIdError`."""
        with self._database.read() as session:
            fetch(session, tenant, JobRow, job_id, what="job")
            query = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.seq > since)
            rows = session.scalars(query.order_by(JobEventRow.seq))
            return [record(JobEventRecord, row) for row in rows]


def add_event(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: Level = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Add an event in the caller's transaction, which has the row of the job locked."""
    last = session.scalar(select(func.max(JobEventRow.seq)).where(JobEventRow.job_id == job_id))
    session.add(
        JobEventRow(
            job_id=job_id,
            seq=(last or 0) + 1,
            created=time.time(),
            level=level,
            message=message,
            data=data,
        )
    )

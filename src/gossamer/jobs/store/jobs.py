"""Jobs as their owners see them: made, listed, and told what is wanted of them.

A worker's and the supervisor's steps are in `attempts`. Here only what has no process changes at
once; of a running job `wanted` is set, and the supervisor makes it so.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from gossamer.errors import JobError, QuotaError
from gossamer.jobs.ids import new_id
from gossamer.jobs.store.database import Database, insert_missing, one_at_a_time
from gossamer.jobs.store.events import add_event
from gossamer.jobs.store.files import usable_file
from gossamer.jobs.store.kinds import JOB_KINDS
from gossamer.jobs.store.records import JobRecord, ListPage, record
from gossamer.jobs.store.scoped import EVERYONE, PageAsk, Tenant, fetch, owned, page_of
from gossamer.jobs.store.tables import (
    FileRow,
    IdempotencyRow,
    JobMetadataRow,
    JobRow,
)

KEY_SECONDS = 24 * 3600.0
"""How long a request's key is remembered."""

RETRY_SECONDS = 120.0
"""How long a retry that has no key finds the job that the first try has made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that is about to be made."""

    tenant: str
    kind: Literal["tune", "compare", "verify", "export"] = "tune"
    model: str
    training_file: str = ""
    """Empty: the job reads no rows."""
    validation_file: str | None = None
    name: str
    seed: int
    request: dict[str, Any]
    request_sha256: str
    resolved: dict[str, Any]
    estimate: dict[str, Any] | None = None
    metadata: dict[str, str]
    group: str | None = None
    max_waiting: int
    """Jobs of the tenant that may wait, this one included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What tells that a request has been sent before."""

    key: str | None = None
    """The request's `Idempotency-Key`."""
    is_retry: bool = False
    """Whether the client says that it tries again."""


class JobTable:
    """The jobs of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewJob, repeat: Repeat) -> tuple[JobRecord, bool]:
        """Make a job; returns it, and whether it is new: a repeated request finds its job again.

        Raises `UnknownIdError` or `JobError` for its files, `JobError` (idempotency_mismatch) for a
        key that another body was sent with, and `QuotaError` if too many jobs wait.
        """
        with self._database.write() as session:
            one_at_a_time(session, f"jobs of {new.tenant}")
            job_id = new_id("ftjob-")
            known = _known(session, new, repeat, job_id)
            if known is not None:
                return record(JobRecord, known), False
            _check_waiting(session, new)
            for file_id, param in _files(new):
                usable_file(session, new.tenant, file_id, param=param)
            row = _add(session, new, job_id)
            return record(JobRecord, row), True

    def get(self, tenant: Tenant, job_id: str) -> JobRecord:
        """The job; raises `UnknownIdError`."""
        with self._database.read() as session:
            return record(JobRecord, fetch(session, tenant, JobRow, job_id, what="job"))

    def metadata(self, job_ids: list[str]) -> dict[str, dict[str, str]]:
        """The metadata of jobs that the caller was shown, by job; jobs without any are left out."""
        found: dict[str, dict[str, str]] = {}
        query = select(JobMetadataRow).where(JobMetadataRow.job_id.in_(job_ids))
        with self._database.read() as session:
            for row in session.scalars(query.order_by(JobMetadataRow.key)):
                found.setdefault(row.job_id, {})[row.key] = row.value
        return found

    def page(
        self,
        tenant: Tenant,
        ask: PageAsk,
        *,
        metadata: dict[str, str] | None = None,
        without_metadata: bool = False,
        statuses: tuple[str, ...] = (),
        kinds: tuple[str, ...] = (),
    ) -> ListPage[JobRecord]:
        """A page of jobs that have all pairs of `metadata`, or none at all, and one of `statuses`
        and of `kinds` (empty: any)."""
        filters = [_has_pair(key, value) for key, value in (metadata or {}).items()]
        if without_metadata:
            filters.append(~exists().where(JobMetadataRow.job_id == JobRow.id))
        if statuses:
            filters.append(JobRow.status.in_(statuses))
        if kinds:
            filters.append(JobRow.kind.in_(kinds))
        with self._database.read() as session:
            return page_of(session, tenant, JobRow, JobRecord, ask, *filters, what="job")

    def of_statuses(self, *statuses: str) -> list[JobRecord]:
        """All jobs of these statuses, the oldest first."""
        query = owned(EVERYONE, JobRow).where(JobRow.status.in_(statuses))
        with self._database.read() as session:
            rows = session.scalars(query.order_by(JobRow.created, JobRow.id))
            return [record(JobRecord, row) for row in rows]

    def cancel(self, tenant: Tenant, job_id: str) -> JobRecord:
        """End a job: at once if it waits, through its supervisor if it runs."""
        with self._database.write() as session:
            row = fetch(session, tenant, JobRow, job_id, what="job", lock=True)
            if row.status == "running":
                _want(row, "cancel")
            elif row.status in ("validating_files", "queued", "paused"):
                row.status, row.finished, row.reason = "cancelled", time.time(), None
                add_event(session, job_id, "The job was cancelled")
            elif row.status != "cancelled":
                raise _wrong_state(row, "a running, paused or queued job can be cancelled")
            return record(JobRecord, row)

    def pause(self, tenant: Tenant, job_id: str) -> JobRecord:
        """Stop a job such that it can go on: at once if it waits."""
        with self._database.write() as session:
            row = fetch(session, tenant, JobRow, job_id, what="job", lock=True)
            if not JOB_KINDS[row.kind].has_steps:
                raise JobError(
                    f"job {job_id} of kind '{row.kind}' has no step to stop at; cancel it",
                    code="wrong_state",
                )
            if row.status == "running" and row.wanted != "cancel":
                _want(row, "pause")
            elif row.status in ("validating_files", "queued"):
                row.status, row.reason = "paused", None
                _want(row, "pause")
                add_event(session, job_id, f"Paused {_place(row)}")
            elif row.status != "paused":
                raise _wrong_state(row, "a running or queued job can be paused")
            return record(JobRecord, row)

    def resume(self, tenant: Tenant, job_id: str) -> JobRecord:
        """Let a paused job go on, or one that was cancelled and still has its files."""
        with self._database.write() as session:
            row = fetch(session, tenant, JobRow, job_id, what="job", lock=True)
            if row.status == "running" and row.wanted != "cancel":
                _want(row, "run")
            elif row.status in ("paused", "cancelled"):
                for file_id, param in _files(row):
                    usable_file(session, EVERYONE, file_id, param=param)
                _want(row, "run")
                row.status, row.finished = _waiting_status(session, row), None
                row.queued, row.deaths = time.time(), 0
                add_event(session, job_id, "The job waits to go on")
            elif row.status not in ("validating_files", "queued"):
                raise _wrong_state(row, "a paused or cancelled job can be resumed")
            return record(JobRecord, row)

    def set_waiting_reasons(self, reasons: Mapping[str, str]) -> None:
        """Note why queued jobs wait; only what has changed is written."""
        if not reasons:
            return
        with self._database.write() as session:
            query = select(JobRow).where(JobRow.id.in_(reasons), JobRow.status == "queued")
            for row in session.scalars(query):
                if row.reason != reasons[row.id]:
                    row.reason = reasons[row.id]

    def set_estimate(self, job_id: str, estimate: dict[str, Any]) -> None:
        """Note what a job is expected to need."""
        with self._database.write() as session:
            row = fetch(session, EVERYONE, JobRow, job_id, what="job", lock=True)
            row.estimate = estimate

    def refuse(self, job_id: str, code: str, message: str) -> bool:
        """End a job that waits and could never run; False if it does not wait any more."""
        with self._database.write() as session:
            row = fetch(session, EVERYONE, JobRow, job_id, what="job", lock=True)
            if row.status != "queued":
                return False
            row.status, row.finished, row.reason = "failed", time.time(), None
            row.error = {"code": code, "message": message, "param": None}
            add_event(session, job_id, message, level="error")
            return True

    def judge_files(self) -> list[JobRecord]:
        """Queue, or fail, the jobs whose files have been checked since; returns those."""
        waiting = [job.id for job in self.of_statuses("validating_files")]
        changed = []
        for job_id in waiting:
            with self._database.write() as session:
                row = fetch(session, EVERYONE, JobRow, job_id, what="job", lock=True)
                if row.status == "validating_files" and _judge(session, row):
                    changed.append(record(JobRecord, row))
        return changed

    def forget_old_keys(self, now: float) -> None:
        """Forget keys of requests that are older than a day."""
        with self._database.write() as session:
            old = select(IdempotencyRow).where(IdempotencyRow.created < now - KEY_SECONDS)
            for row in session.scalars(old):
                session.delete(row)


def _known(session: Session, new: NewJob, repeat: Repeat, job_id: str) -> JobRow | None:
    """The job that the same request has made before; None, with the key noted, if there is none."""
    now = time.time()
    if repeat.key is not None:
        inserted = insert_missing(
            session,
            IdempotencyRow,
            tenant=new.tenant,
            key=repeat.key,
            request_sha256=new.request_sha256,
            job_id=job_id,
            created=now,
        )
        if inserted:
            return None
        before = session.get_one(IdempotencyRow, (new.tenant, repeat.key))
        if before.created < now - KEY_SECONDS:
            before.request_sha256, before.job_id, before.created = new.request_sha256, job_id, now
            return None
        if before.request_sha256 != new.request_sha256:
            raise JobError(
                "this Idempotency-Key was sent with another body; use a new key for a new job",
                code="idempotency_mismatch",
            )
        return session.get_one(JobRow, before.job_id)
    if not repeat.is_retry:
        return None
    query = owned(new.tenant, JobRow).where(
        JobRow.request_sha256 == new.request_sha256, JobRow.created > now - RETRY_SECONDS
    )
    return session.scalars(query.order_by(JobRow.created.desc()).limit(1)).one_or_none()


def _check_waiting(session: Session, new: NewJob) -> None:
    waiting = owned(new.tenant, JobRow).where(JobRow.status.in_(("validating_files", "queued")))
    count = session.scalar(waiting.with_only_columns(func.count())) or 0
    if count >= new.max_waiting:
        raise QuotaError(
            f"{count} jobs of tenant '{new.tenant}' wait already, of at most {new.max_waiting}; "
            "cancel one, or wait until one has begun",
            retry_after=60.0,
        )


def _add(session: Session, new: NewJob, job_id: str) -> JobRow:
    now = time.time()
    row = JobRow(
        id=job_id,
        tenant=new.tenant,
        kind=new.kind,
        status="validating_files",
        wanted="run",
        wanted_since=now,
        attempt=0,
        model=new.model,
        training_file=new.training_file,
        validation_file=new.validation_file,
        name=new.name,
        seed=new.seed,
        request=new.request,
        request_sha256=new.request_sha256,
        resolved=new.resolved,
        estimate=new.estimate,
        saved_step=0,
        deaths=0,
        death_step=0,
        created=now,
        group=new.group,
    )
    session.add(row)
    session.flush()
    session.add_all(
        JobMetadataRow(job_id=job_id, key=key, value=value) for key, value in new.metadata.items()
    )
    add_event(session, job_id, f"{JOB_KINDS[new.kind].created}: {job_id}")
    for file_id, param in _files(new):
        add_event(session, job_id, f"Validating {param.replace('_', ' ')}: {file_id}")
    _judge(session, row)
    return row


def _judge(session: Session, row: JobRow) -> bool:
    """Move a job on whose files have been checked; returns whether it was."""
    statuses = _file_statuses(session, row)
    wrong = next((file for file in statuses if file.status == "error"), None)
    now = time.time()
    if wrong is not None:
        param = "training_file" if wrong.id == row.training_file else "validation_file"
        message = f"file {wrong.id} cannot be used: {wrong.status_details}"
        row.status, row.finished = "failed", now
        row.error = {"code": "invalid_file", "message": message, "param": param}
        add_event(session, row.id, message, level="error")
        return True
    if any(file.status != "processed" for file in statuses):
        return False
    row.status, row.queued = "queued", now
    if statuses:
        add_event(session, row.id, "Files validated, moving job to queued state")
    return True


def _waiting_status(session: Session, row: JobRow) -> str:
    checked = all(file.status == "processed" for file in _file_statuses(session, row))
    return "queued" if checked else "validating_files"


def _file_statuses(session: Session, row: JobRow) -> list[FileRow]:
    wanted = [file_id for file_id, _ in _files(row)]
    return list(session.scalars(select(FileRow).where(FileRow.id.in_(wanted))))


def _files(job: NewJob | JobRow) -> list[tuple[str, str]]:
    """The files that a job reads, and the field of the request that names each."""
    files = ((job.training_file, "training_file"), (job.validation_file, "validation_file"))
    return [(file_id, param) for file_id, param in files if file_id]


def _has_pair(key: str, value: str) -> ColumnElement[bool]:
    return exists().where(
        JobMetadataRow.job_id == JobRow.id,
        JobMetadataRow.key == key,
        JobMetadataRow.value == value,
    )


def _want(row: JobRow, wanted: str) -> None:
    if row.wanted != wanted:
        row.wanted, row.wanted_since = wanted, time.time()


def _place(row: JobRow) -> str:
    return f"at step {row.saved_step}" if row.saved_step else "before the first step"


def _wrong_state(row: JobRow, rule: str) -> JobError:
    state = "being cancelled" if row.wanted == "cancel" and row.status == "running" else row.status
    return JobError(f"job {row.id} is {state}; only {rule}", code="wrong_state")

"""The steps of a running job, each one transaction, each fenced by the number of its attempt.

A worker whose job was taken from it (its lease ended and another attempt has begun, or the job is
over) changes nothing: every statement names job, attempt and `running`, and what is not so any
more returns None or False. So of two processes that believe they have a job, one is heard.

What a run has done is on the disk before a step here tells of it. A crash before the step is
mended by saying it again: by the worker that comes next, or by the supervisor.
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gossamer.jobs.data_folder import run_place
from gossamer.jobs.queue.needs import memory_words
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.events import Level, add_event
from gossamer.jobs.store.files import add_file
from gossamer.jobs.store.kinds import JOB_KINDS, step_words
from gossamer.jobs.store.records import JobRecord, record
from gossamer.jobs.store.tables import AttemptRow, JobEventRow, JobRow, ModelRow, SupervisorRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """The figures of a finished run as a file; its bytes are a blob already."""

    filename: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeModel:
    """One of the tuned models that a job has left."""

    name: str
    digest: str
    bytes: int
    folder: str
    """Where it lies, below the data folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """How a job ended."""

    error: dict[str, Any] | None = None
    """Why the job failed: `code`, `message`, `param`."""
    trained_tokens: int | None = None
    digest: str = ""
    """The digest of the adapter that is served by the job's name; empty: there is none."""
    bytes: int = 0
    """The size of the adapter's files."""
    models: tuple[OutcomeModel, ...] = ()
    """The adapters that are served by names of their own, of a job that makes several."""
    result: dict[str, Any] | None = None
    """What the job has found, or where what it has made lies; it is kept on the disk alone."""
    result_file: ResultFile | None = None

    def served(self, job_id: str, name: str) -> tuple[OutcomeModel, ...]:
        """The adapters that are served, of a job of that name."""
        if not self.digest:
            return self.models
        own = OutcomeModel(
            name=name, digest=self.digest, bytes=self.bytes, folder=run_place(job_id)
        )
        return (*self.models, own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What is known of a worker that died without a word."""

    step: int
    """The step of the last checkpoint on the disk; 0: none."""
    cause: str
    """In words, such as "the worker was killed"."""
    counts: bool
    """Whether it may be the job's fault; a machine that was restarted is not."""
    out_of_memory: bool = False
    held: int = 0
    """The most memory that the worker was seen to hold, in bytes; 0: it was not seen."""


class AttemptTable:
    """The running jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, job_id: str, owner: str, *, lease_until: float) -> int | None:
        """Make a queued job a running one for a worker that is about to be started.

        Returns the number of the attempt; None if the job is not queued any more, or if `owner` is
        not the supervisor any more.
        """
        with self._database.write() as session:
            if not _supervises(session, owner):
                return None
            query = select(JobRow).where(
                JobRow.id == job_id, JobRow.status == "queued", JobRow.wanted == "run"
            )
            row = session.scalars(query.with_for_update()).one_or_none()
            if row is None:
                return None
            row.status, row.attempt, row.lease_until = "running", row.attempt + 1, lease_until
            row.reason = row.place = row.pid = row.pid_started = None
            return row.attempt

    def register(
        self,
        job_id: str,
        attempt: int,
        *,
        place: str,
        pid: int,
        pid_started: float,
        lease_until: float,
    ) -> JobRecord | None:
        """Tell which process has the job; None if the attempt is over before it has begun."""
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None or row.pid is not None:
                return None
            now = time.time()
            row.place, row.pid, row.pid_started = place, pid, pid_started
            row.lease_until = lease_until
            row.started = row.started or now
            session.add(
                AttemptRow(
                    job_id=job_id, attempt=attempt, tenant=row.tenant, started=now, ended=now
                )
            )
            return record(JobRecord, row)

    def beat(self, job_id: str, attempt: int, *, lease_until: float) -> bool:
        """Tell that the worker lives; False if it has lost the job."""
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None:
                return False
            row.lease_until = max(row.lease_until or 0.0, lease_until)
            _count_time(session, row)
            return True

    def hold(self, job_id: str, attempt: int, owner: str, *, lease_until: float) -> None:
        """Lengthen the lease of a worker that the supervisor itself has stopped for a while."""
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is not None and _supervises(session, owner):
                row.lease_until = max(row.lease_until or 0.0, lease_until)

    def explain(self, job_id: str, attempt: int, owner: str, reason: str | None) -> None:
        """Note why a running job does not get on; None: it does."""
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is not None and _supervises(session, owner):
                row.reason = reason

    def announce(self, job_id: str, attempt: int, *, steps: int | None, resumed_from: int) -> bool:
        """Tell that the work begins, or goes on after the checkpoint of the step `resumed_from`.

        `steps` is None for what has none.

        If the worker before was killed between saving that checkpoint and telling of it, this
        tells of it.
        """
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None:
                return False
            row.steps = steps
            _tell_checkpoint(session, row, resumed_from)
            if resumed_from:
                message = f"Resumed from step {resumed_from}"
            elif attempt == 1:
                message = JOB_KINDS[row.kind].started
            else:
                has_steps = JOB_KINDS[row.kind].has_steps
                message = f"Started again{' from the first step' if has_steps else ''}"
            add_event(session, job_id, message, data={"attempt": attempt, "step": resumed_from})
            return True

    def saved(self, job_id: str, attempt: int, step: int) -> bool:
        """Tell that the checkpoint of `step` is on the disk; each is told of once."""
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None:
                return False
            _tell_checkpoint(session, row, step)
            return True

    def note(self, job_id: str, attempt: int, message: str, *, level: Level = "info") -> bool:
        """Tell the owner something that the run has said."""
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None:
                return False
            told = select(JobEventRow.seq).where(
                JobEventRow.job_id == job_id, JobEventRow.message == message
            )
            # A run that goes on warns of its data again.
            if session.scalars(told.limit(1)).one_or_none() is None:
                add_event(session, job_id, message, level=level)
            return True

    def release(
        self, job_id: str, attempt: int, *, step: int, why: str, max_deaths: int | None = None
    ) -> str | None:
        """Give a job back whose worker has saved and ends.

        What the owner wants decides what the job becomes: paused, cancelled, or queued, and then
        `why` is told. With `max_deaths` the worker ends because of a trouble, which counts as a
        death does. Returns the status; None if the job was lost.
        """
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None:
                return None
            if max_deaths is not None and row.wanted == "run":
                _count_death(row, step)
                if row.deaths >= max_deaths:
                    return _fail(session, row, {"code": "storage_failed", "message": why})
            return _give_back(session, row, step, why)

    def finish(self, job_id: str, attempt: int, outcome: JobOutcome) -> bool:
        """End a job as its `outcome`, which is on the disk, says; False if that was done before.

        With its model and its file of figures, all in one transaction.
        """
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None:
                return False
            _end(session, row)
            row.finished = time.time()
            row.trained_tokens = outcome.trained_tokens
            if outcome.error is not None:
                row.status, row.error = "failed", outcome.error
                add_event(session, job_id, str(outcome.error["message"]), level="error")
                return True
            row.status = "succeeded"
            for model in outcome.served(job_id, row.name):
                session.add(
                    ModelRow(
                        name=model.name,
                        alias=None,
                        job_id=job_id,
                        folder=model.folder,
                        tenant=row.tenant,
                        digest=model.digest,
                        bytes=model.bytes,
                        created=row.finished,
                        deleted=None,
                    )
                )
                add_event(session, job_id, f"New fine-tuned model created: {model.name}")
            if outcome.result_file is not None:
                row.result_file = add_file(
                    session,
                    row.tenant,
                    purpose="fine-tune-results",
                    filename=outcome.result_file.filename,
                    bytes=outcome.result_file.bytes,
                    sha256=outcome.result_file.sha256,
                    status="processed",
                ).id
            add_event(session, job_id, "The job has successfully completed")
            return True

    def died(
        self, job_id: str, attempt: int, owner: str, death: Death, *, max_deaths: int
    ) -> str | None:
        """Give back, or end, a job whose worker died without a word.

        After `max_deaths` deaths in a row without a new checkpoint, or the second one by lack of
        memory, the job fails. What the owner wanted counts first. Returns the status; None if the
        job is not running this attempt, or `owner` is not the supervisor any more.
        """
        with self._database.write() as session:
            row = _mine(session, job_id, attempt)
            if row is None or not _supervises(session, owner):
                return None
            if row.wanted != "run":
                return _give_back(session, row, death.step, death.cause)
            if death.counts:
                _count_death(row, death.step)
            _tell_checkpoint(session, row, death.step)
            if death.counts and row.deaths >= (2 if death.out_of_memory else max_deaths):
                return _fail(session, row, _death_error(row, death))
            _end(session, row)
            row.status, row.queued = "queued", time.time()
            place = f"from step {death.step}" if death.step else "from the first step"
            if not JOB_KINDS[row.kind].has_steps:
                place = "from its start"
            message = f"{death.cause[0].upper()}{death.cause[1:]}; going on {place}"
            data = {"attempt": attempt, "step": death.step}
            add_event(session, job_id, message, level="warn", data=data)
            return row.status

    def seconds_since(self, start: float) -> dict[str, float]:
        """Seconds of training since `start`, by tenant."""
        query = select(AttemptRow).where(AttemptRow.ended > start)
        seconds: dict[str, float] = {}
        with self._database.read() as session:
            for row in session.scalars(query):
                span = row.ended - max(row.started, start)
                seconds[row.tenant] = seconds.get(row.tenant, 0.0) + span
        return seconds

    def seconds_of(self, job_id: str) -> float:
        """Seconds that the workers of a job have had, all attempts together."""
        spans = select(func.sum(AttemptRow.ended - AttemptRow.started))
        with self._database.read() as session:
            return float(session.scalar(spans.where(AttemptRow.job_id == job_id)) or 0.0)


def _mine(session: Session, job_id: str, attempt: int) -> JobRow | None:
    """The row of the job while it runs that attempt, locked."""
    query = select(JobRow).where(
        JobRow.id == job_id, JobRow.attempt == attempt, JobRow.status == "running"
    )
    return session.scalars(query.with_for_update()).one_or_none()


def _supervises(session: Session, owner: str) -> bool:
    """Whether `owner` is the supervisor, and stays it until the transaction ends."""
    query = select(SupervisorRow).where(SupervisorRow.owner == owner)
    return session.scalars(query.with_for_update(read=True)).one_or_none() is not None


def _end(session: Session, row: JobRow) -> None:
    _count_time(session, row)
    row.lease_until = row.place = row.pid = row.pid_started = row.reason = None


def _count_time(session: Session, row: JobRow) -> None:
    """Note how long the worker has been at it; one that never registered had no time."""
    stint = session.get(AttemptRow, (row.id, row.attempt))
    if stint is not None:
        # A worker that died a while ago has not worked for longer than its lease.
        lived = row.lease_until if row.lease_until is not None else stint.ended
        stint.ended = max(stint.ended, min(time.time(), lived))


def _tell_checkpoint(session: Session, row: JobRow, step: int) -> None:
    if step > row.saved_step:
        row.saved_step = step
        message = f"Checkpoint created at step {step}"
        add_event(session, row.id, message, data={"step": step})


def _give_back(session: Session, row: JobRow, step: int, why: str) -> str:
    _tell_checkpoint(session, row, step)
    _end(session, row)
    place = step_words(row.kind, step)
    now = time.time()
    if row.wanted == "cancel":
        row.status, row.finished = "cancelled", now
        message = f"The job was cancelled{place}"
    elif row.wanted == "pause":
        row.status = "paused"
        message = f"Paused{place}"
    else:
        row.status, row.queued = "queued", now
        message = f"Stopped{place}: {why}"
    add_event(session, row.id, message, data={"attempt": row.attempt, "step": step})
    return row.status


def _count_death(row: JobRow, step: int) -> None:
    """Count a death; one after a new checkpoint is the first in a row."""
    row.deaths = 1 if step > row.death_step else row.deaths + 1
    row.death_step = max(row.death_step, step)


def _fail(session: Session, row: JobRow, error: dict[str, Any]) -> str:
    _end(session, row)
    row.status, row.finished, row.error = "failed", time.time(), {"param": None, **error}
    add_event(session, row.id, str(error["message"]), level="error")
    return row.status


def _death_error(row: JobRow, death: Death) -> dict[str, Any]:
    if death.out_of_memory:
        message = (
            f"{death.cause}, twice{memory_words(row.estimate, death.held)}; lower batch_size or "
            "max_length, or set gradient_checkpointing=true"
        )
        return {"code": "out_of_memory", "message": message}
    message = f"{death.cause} {row.deaths} times in a row without a new checkpoint"
    return {"code": "worker_died", "message": message}

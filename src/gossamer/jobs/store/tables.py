"""The tables. Portable types only; times are seconds since 1970 as floats; a status is a text."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

FILE_STATUSES = ("uploaded", "processed", "error")
UPLOAD_STATUSES = ("pending", "completed", "cancelled", "expired")
JOB_STATUSES = (
    "validating_files",
    "queued",
    "running",
    "paused",
    "succeeded",
    "failed",
    "cancelled",
)
WANTED = ("run", "pause", "cancel")
KINDS = ("tune", "compare", "verify", "export")


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class TableRow(DeclarativeBase):
    """Base of the tables; each constraint has a name, so that migrations can change it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # read by SQLAlchemy as it is
        str: String(255),
        int: BigInteger(),
        float: Double(),
        bool: Boolean(),
        dict[str, Any]: JSON(),
    }


class BlobRow(TableRow):
    """Bytes in the folder of blobs. Who refers to them is asked of the files and jobs."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    bytes: Mapped[int]
    created: Mapped[float]


class FileRow(TableRow):
    """An upload under the name that its owner knows."""

    __tablename__ = "files"
    __table_args__ = (
        _one_of("status", FILE_STATUSES),
        Index(None, "tenant", "created", "id"),
        Index(None, "sha256"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(64))
    filename: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(32))
    status_details: Mapped[str | None] = mapped_column(Text)
    created: Mapped[float]
    expires: Mapped[float | None]
    deleted: Mapped[float | None]


class UploadRow(TableRow):
    """A large file that comes in parts."""

    __tablename__ = "uploads"
    __table_args__ = (_one_of("status", UPLOAD_STATUSES), Index(None, "tenant", "created", "id"))
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(64))
    filename: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int]
    status: Mapped[str] = mapped_column(String(32))
    created: Mapped[float]
    expires: Mapped[float]
    file_id: Mapped[str | None] = mapped_column(String(64))


class UploadPartRow(TableRow):
    """One part; its bytes lie in scratch under its identifier."""

    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    tenant: Mapped[str]
    bytes: Mapped[int]
    created: Mapped[float]


class JobRow(TableRow):
    """A job. What its process does is fenced by `attempt`, what its owner wants is `wanted`."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("kind", KINDS),
        _one_of("status", JOB_STATUSES),
        _one_of("wanted", WANTED),
        Index(None, "tenant", "created", "id"),
        Index(None, "status"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str]
    kind: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(32))
    wanted: Mapped[str] = mapped_column(String(32))
    wanted_since: Mapped[float]
    attempt: Mapped[int]
    lease_until: Mapped[float | None]
    place: Mapped[str | None]
    pid: Mapped[int | None]
    pid_started: Mapped[float | None]
    model: Mapped[str] = mapped_column(Text)
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    result_file: Mapped[str | None] = mapped_column(String(64))
    name: Mapped[str]
    seed: Mapped[int]
    request: Mapped[dict[str, Any]]
    request_sha256: Mapped[str] = mapped_column(String(64))
    resolved: Mapped[dict[str, Any]]
    estimate: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None]
    steps: Mapped[int | None]
    saved_step: Mapped[int]
    deaths: Mapped[int]
    death_step: Mapped[int]
    created: Mapped[float]
    queued: Mapped[float | None]
    started: Mapped[float | None]
    finished: Mapped[float | None]
    trained_tokens: Mapped[int | None]
    group: Mapped[str | None]


class JobMetadataRow(TableRow):
    """One pair of a job's metadata."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index(None, "key", "value"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))


class JobEventRow(TableRow):
    """What happened to a job, numbered without a gap. Metrics are not here but in its run."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created: Mapped[float]
    level: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]


class AttemptRow(TableRow):
    """The time that one worker of a job has had; quotas and shares count it."""

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "tenant", "ended"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str]
    started: Mapped[float]
    ended: Mapped[float]


class ModelRow(TableRow):
    """A tuned model, or one that its owner has deleted and may want back.

    A deleted one keeps its alias until another takes it.
    """

    __tablename__ = "models"
    __table_args__ = (Index(None, "tenant", "created", "name"), UniqueConstraint("alias"))
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str | None]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    folder: Mapped[str]
    tenant: Mapped[str]
    digest: Mapped[str]
    bytes: Mapped[int]
    created: Mapped[float]
    deleted: Mapped[float | None]


class ModelPermissionRow(TableRow):
    """A tenant beside the owner that may use a model."""

    __tablename__ = "model_permissions"
    __table_args__ = (UniqueConstraint("model", "project"), Index(None, "project"))
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    tenant: Mapped[str]
    project: Mapped[str]
    created: Mapped[float]


class SpeedRow(TableRow):
    """How long a token took in finished steps on one machine; estimates go by it."""

    __tablename__ = "speeds"
    machine: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    dtype: Mapped[str] = mapped_column(String(32), primary_key=True)
    threads: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seconds_per_token: Mapped[float]
    samples: Mapped[int]
    updated: Mapped[float]


class IdempotencyRow(TableRow):
    """The job that a request with that key has made."""

    __tablename__ = "idempotency"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(64))
    created: Mapped[float]


class SessionRow(TableRow):
    """A browser that has logged in; the cookie itself is not kept."""

    __tablename__ = "sessions"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str | None]
    tenant: Mapped[str]
    admin: Mapped[bool]
    created: Mapped[float]
    expires: Mapped[float]


class SupervisorRow(TableRow):
    """The one server that starts and stops workers; the table has one row."""

    __tablename__ = "supervisor"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str]
    place: Mapped[str]
    pid: Mapped[int]
    pid_started: Mapped[float]
    lease_until: Mapped[float]

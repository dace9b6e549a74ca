"""What the tables hold, as frozen values: no row of SQLAlchemy leaves the room.

Times are seconds since 1970. The fields are those of the rows in `tables`, by the same names.
"""

from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from gossamer.jobs.store.tables import TableRow

R = TypeVar("R")

UNFINISHED = frozenset({"validating_files", "queued", "running", "paused"})
"""The statuses of jobs that still need their files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """An upload."""

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    sha256: str
    status: str
    """uploaded until the check has run, then processed, or error."""
    status_details: str | None
    created: float
    expires: float | None
    deleted: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """A file that comes in parts: pending, completed, cancelled or expired."""

    id: str
    tenant: str
    purpose: str
    filename: str
    mime_type: str
    bytes: int
    """What all parts together must have."""
    status: str
    created: float
    expires: float
    file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPartRecord:
    """One part of an upload."""

    id: str
    upload_id: str
    tenant: str
    bytes: int
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the database knows it; how far its run is stands in the run folder."""

    id: str
    tenant: str
    kind: str
    status: str
    wanted: str
    """What the owner wants of it: run, pause or cancel."""
    wanted_since: float
    attempt: int
    """The number of times a worker was started; every write of a worker names its own."""
    lease_until: float | None
    """When a running worker that has not been heard of is given up."""
    place: str | None
    """The machine and process space of the worker."""
    pid: int | None
    pid_started: float | None
    model: str
    """The base model as it was asked for."""
    training_file: str
    validation_file: str | None
    result_file: str | None
    name: str
    """The name that the tuned model has, or will have."""
    seed: int
    request: dict[str, Any]
    """The body of the request."""
    request_sha256: str
    resolved: dict[str, Any]
    """What the request means: `hyperparameters`, `adapter`, `training`, and the `run` settings."""
    estimate: dict[str, Any] | None
    reason: str | None
    """Why a queued job waits."""
    error: dict[str, Any] | None
    """Why the job failed: `code`, `message`, `param`."""
    steps: int | None
    """The steps that the whole run takes, once that is known."""
    saved_step: int
    """The last step whose checkpoint was announced; 0: none."""
    deaths: int
    """Deaths of workers in a row without a new checkpoint."""
    death_step: int
    """The step of the last checkpoint at the last death."""
    created: float
    queued: float | None
    started: float | None
    finished: float | None
    trained_tokens: int | None
    group: str | None

    @property
    def is_unfinished(self) -> bool:
        """Whether it may still train."""
        return self.status in UNFINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEventRecord:
    """A lifecycle event of a job; `seq` counts from 1 without a gap."""

    job_id: str
    seq: int
    created: float
    level: str
    """info, warn or error."""
    message: str
    data: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A tuned model."""

    name: str
    alias: str | None
    """The name that its owner has chosen."""
    job_id: str | None
    """The job that made it; None: it was imported."""
    folder: str
    """The folder of its files, below the data folder."""
    tenant: str
    digest: str
    """The digest of the adapter, as the server tells it."""
    bytes: int
    created: float
    deleted: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPermissionRecord:
    """The right of the tenant `project` to use a model of `tenant`."""

    id: str
    model: str
    tenant: str
    project: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRecord:
    """Seconds per token of finished steps, a moving mean."""

    machine: str
    model: str
    method: str
    dtype: str
    threads: int
    seconds_per_token: float
    samples: int
    updated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A browser that has logged in."""

    hash: str
    """The SHA-256 of the cookie."""
    key_id: str | None
    """The key it logged in with; None: the one-time token."""
    tenant: str
    admin: bool
    created: float
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorRecord:
    """The server that watches over workers; the owner is empty where there is none."""

    owner: str
    place: str
    pid: int
    pid_started: float
    lease_until: float


@dataclass(frozen=True, slots=True)
class ListPage(Generic[R]):
    """A part of a list, and whether more follow."""

    data: list[R]
    has_more: bool


def record(cls: type[R], row: TableRow) -> R:
    """Build the record of a row."""
    return cls(**{field.name: getattr(row, field.name) for field in fields(cls)})  # type: ignore[arg-type]

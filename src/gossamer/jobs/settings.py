"""Settings of jobs: where they are kept, how many run, and how long a process may be silent."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gossamer.jobs.data_folder import DataFolder
from gossamer.settings import Settings

SETTINGS_VARIABLE = "GOSSAMER_JOBS_SETTINGS"
"""The variable that gives a worker its settings as JSON: they may hold a password, which no list of
processes should show."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _absolute(folder: str) -> str:
    """Where the path `folder` is, whatever folder a worker works in later."""
    return os.path.abspath(Path(folder).expanduser())


class JobsSettings(Settings):
    """Fine-tuning jobs of one server."""

    data_dir: Annotated[str, AfterValidator(_absolute), Field(validate_default=True)] = (
        "gossamer-data"
    )
    """Folder of uploads, jobs and their adapters; it is made for its owner alone."""

    database: str | None = None
    """URL of the database, for example postgresql+psycopg://user@host/name; unset: a SQLite file in
    data_dir, which must be on a local disk."""

    max_jobs: Count = 1
    """Jobs that train at the same time."""

    jobs_share: Literal["idle", "pause", "full"] = "idle"
    """What training leaves to serving: idle gives it processors that nothing else wants, pause
    stops it while requests run, full lets it compete."""

    allow_hub: bool = False
    """Whether jobs may fetch from the hub; otherwise base models must be on this machine."""

    max_upload_mib: Count = 512
    """Largest file that is taken in one request, in MiB."""

    max_upload_total_mib: Count = 8192
    """Largest file that is taken in parts, in MiB."""

    max_queued_jobs: Count = 100
    """Jobs of one tenant that may wait."""

    disk_floor_mib: Count = 2048
    """Free disk, in MiB, below which nothing is started and running jobs save and wait; 5 % of the
    disk if that is more."""

    memory_margin: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.15
    """Factor on a job's estimated memory when it is asked whether the job fits."""

    job_memory_mib: Count | None = None
    """Most memory of this machine, in MiB, that one job's worker may hold before it is killed;
    unset: all but a reserve of 10 %, and 1 GiB at least."""

    stop_seconds: Seconds = 60.0
    """Seconds that a worker has for its step and its checkpoint when it is asked to stop, before it
    is killed; three times its step and save if that is more."""

    heartbeat_seconds: Seconds = 5.0
    """Seconds between two signs of life of a worker, and of the server that watches over it."""

    lease_seconds: Seconds = 30.0
    """Seconds without a sign of life after which a worker, or a server, is replaced."""

    orphan_seconds: Seconds = 600.0
    """Seconds without a server after which a worker saves and gives its job back."""

    max_deaths: Count = 3
    """Deaths of a job's worker in a row without a new checkpoint, after which the job fails."""

    keep_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 7.0
    """Days that deleted models and the checkpoints of cancelled jobs can be had back."""

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds={self.lease_seconds:g} must be at least three times "
                f"heartbeat_seconds={self.heartbeat_seconds:g}, or a slow disk looks like a death"
            )
        return self

    @property
    def keep_seconds(self) -> float:
        """Seconds that deleted models can be had back."""
        return self.keep_days * 24 * 3600.0

    @property
    def folder(self) -> DataFolder:
        """The layout of `data_dir`, as an absolute path."""
        return DataFolder(Path(self.data_dir))

    @property
    def database_url(self) -> str:
        """The URL of the database that is used."""
        return self.database or f"sqlite:///{self.folder.database}"

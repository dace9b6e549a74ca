"""Starts the process of an attempt."""

import os
import subprocess
import sys
from typing import Protocol

from gossamer.jobs.data_folder import JobPaths
from gossamer.jobs.settings import SETTINGS_VARIABLE, JobsSettings
from gossamer.machine import usable_cpus

_WORKER = "gossamer.jobs.worker"
_THREADS = "OMP_NUM_THREADS"
_LOG_BYTES = 5 * 2**20


class Child(Protocol):
    """A process that was started here."""

    @property
    def pid(self) -> int:
        """The number of the process."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None: it runs."""


class Launcher(Protocol):
    """A way to start workers."""

    def __call__(self, job: JobPaths, attempt: int) -> Child:
        """Start the worker of an attempt; raises `OSError`."""


class ProcessLauncher:
    """Starts workers as programs of their own, in sessions that no signal of a terminal reaches."""

    def __init__(self, settings: JobsSettings) -> None:
        told = {SETTINGS_VARIABLE: settings.model_dump_json()}
        self._environment = environment(settings) | told

    def __call__(self, job: JobPaths, attempt: int) -> Child:
        """Start `python -m gossamer.jobs.worker`; what it prints is added to the job's log."""
        rotate_log(job)
        with job.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(job.root), str(attempt)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )


def environment(settings: JobsSettings) -> dict[str, str]:
    """Variables for a worker, which libraries read when they are loaded."""
    threads = usable_cpus() if settings.jobs_share == "full" else max(1, usable_cpus() - 1)
    values = {
        # The one who starts the server may have chosen a number.
        _THREADS: os.environ.get(_THREADS, str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if not settings.allow_hub:
        values |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return values


def rotate_log(job: JobPaths) -> None:
    """Make room for a log that has become long; the one before is kept."""
    job.root.mkdir(mode=0o700, exist_ok=True)
    if job.log.exists() and job.log.stat().st_size > _LOG_BYTES:
        job.log.replace(job.log.with_suffix(".old.txt"))

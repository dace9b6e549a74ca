"""One attempt of one job, as the work of its kind sees it, and what such work is."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gossamer.jobs.data_folder import JobPaths
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.attempts import JobOutcome
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.store.scoped import EVERYONE
from gossamer.jobs.worker.listener import JobListener


@dataclass(frozen=True, slots=True)
class JobTask:
    """A job whose folder this process has to itself, in its attempt of that number."""

    store: JobStore
    settings: JobsSettings
    record: JobRecord
    attempt: int

    @property
    def job(self) -> JobPaths:
        """The job's files."""
        return self.settings.folder.job(self.record.id)

    def listener(self) -> JobListener:
        """What tells the job's owner of the work."""
        return JobListener(self.store.attempts, self.record.id, self.attempt)

    def model_folder(self, name: str) -> Path:
        """The folder of a result; raises `UnknownIdError` for one that was deleted."""
        model = self.store.models.get(EVERYONE, name)
        return self.settings.folder.root / model.folder

    def enter(self) -> None:
        """Make the job's folder the current one, so that records hold no path of this machine."""
        self.job.data.mkdir(exist_ok=True)
        os.chdir(self.job.root)

    def link_rows(self, files: Mapping[str, str]) -> None:
        """Give uploads, by identifier, the names below the job's folder that tell their format."""
        for file_id, name in files.items():
            if not Path(name).is_symlink():
                sha256 = self.store.files.get(EVERYONE, file_id).sha256
                blob = self.settings.folder.blob(sha256)
                Path(name).symlink_to(os.path.relpath(blob, Path(name).parent.absolute()))


class KindOfWork(ABC):
    """What jobs of one kind do."""

    def __init__(self, task: JobTask) -> None:
        self.task = task

    @abstractmethod
    def carry_out(self) -> JobOutcome:
        """Do what is left to do, and return how the job ended.

        What an earlier attempt has done is found on the disk and not done again. Raises
        `GossamerError` for what would fail again, and `KeyboardInterrupt` once what was done until
        a signal to stop is on the disk.
        """

    def ended(self) -> None:  # noqa: B027  # most have nothing to do
        """Do what is to follow a success that has been told. It may be missed by a crash."""

"""Removes files and uploads that are past their time, and bytes that nothing refers to."""

import logging
import time
from contextlib import suppress

from gossamer.errors import JobError
from gossamer.jobs.files.scratch import HALF, remove_abandoned
from gossamer.jobs.files.service import FileService
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore

log = logging.getLogger("gossamer.jobs")

YOUNG_SECONDS = 3600.0
"""Bytes without a row that are younger may get theirs still."""


class Sweeper:
    """Sweeps one data folder. Not for the event loop; one at a time."""

    def __init__(self, store: JobStore, files: FileService, settings: JobsSettings) -> None:
        self._store = store
        self._files = files
        self._folder = settings.folder

    def begin(self) -> None:
        """Mend what a crash may have left behind; then as `sweep`."""
        remove_abandoned(self._folder.scratch)
        for sha256 in self._files.blobs.aside():
            self._decide(sha256)
        old = time.time() - YOUNG_SECONDS
        for sha256 in self._files.blobs.all():
            is_old = self._files.blobs.path(sha256).stat().st_mtime < old
            if is_old and not self._store.files.blob_is_used(sha256):
                self._remove(sha256)
        self.sweep()

    def sweep(self) -> None:
        """Remove what has expired since, and bytes that nothing refers to any more."""
        now = time.time()
        for record in self._store.files.expired(now):
            # A job may have begun with it meanwhile, or its owner deleted it.
            with suppress(JobError):
                self._store.files.delete(record.tenant, record.id)
        for upload in self._store.uploads.expire(now):
            self._files.remove_parts(upload.tenant, upload.id)
        self._remove_parts(now)
        for sha256 in self._store.files.unused_blobs():
            if self._store.files.forget_blob(sha256):
                self._remove(sha256)

    def _remove_parts(self, now: float) -> None:
        living = self._store.uploads.living_parts()
        for path in self._folder.scratch.iterdir():
            with suppress(FileNotFoundError):
                is_old = path.stat().st_mtime < now - YOUNG_SECONDS
                if is_old and path.name not in living and not path.name.startswith(HALF):
                    path.unlink()

    def _remove(self, sha256: str) -> None:
        if self._files.blobs.step_aside(sha256):
            self._decide(sha256)

    def _decide(self, sha256: str) -> None:
        if self._store.files.blob_is_used(sha256):
            self._files.blobs.come_back(sha256)
        else:
            self._files.blobs.leave(sha256)

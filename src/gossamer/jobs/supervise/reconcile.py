"""What a crash has left undone between the database and the disk, done.

Everything here can be repeated, and a crash in the middle leaves work for the next time:

- A model's row decides which links there are. So the links are made that are missing, and those are
  removed that no living model has, once it is clear that none is about to come.
- What was being imported has no row until it is whole.
- What may be had back for some days is removed after them: the row of a model after its files.
"""

import shutil
import time
from contextlib import suppress

from gossamer.jobs.results.links import YOUNG_SECONDS, mend
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore

_SPARE_SECONDS = 60.0
"""For who asks for a model back in the last moment, and gets it while this goes on."""


def reconcile(store: JobStore, settings: JobsSettings) -> None:
    """Make the disk what the database says, at a server's start and from time to time."""
    mend(store, settings.folder)
    sweep_imports(store, settings, time.time())
    forget_old(store, settings, time.time())


def sweep_imports(store: JobStore, settings: JobsSettings, now: float) -> None:
    """Remove what a crash has left of adapters that were being imported."""
    folder = settings.folder
    # Looked at first: an old one that is here now has its model by the next statement.
    paths = list(folder.imports.iterdir())
    known = {model.folder for model in store.models.all()}
    for path in paths:
        with suppress(FileNotFoundError):
            is_model = path.relative_to(folder.root).as_posix() in known
            if not is_model and path.stat().st_mtime < now - YOUNG_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def forget_old(store: JobStore, settings: JobsSettings, now: float) -> None:
    """Remove for good what could have been had back until now."""
    folder = settings.folder
    before = now - settings.keep_seconds - _SPARE_SECONDS
    for model in store.models.all():
        if model.deleted is not None and model.deleted < before:
            shutil.rmtree(folder.root / model.folder, ignore_errors=True)
            (folder.trash / model.name).unlink(missing_ok=True)
            store.models.forget(model.name)
    for job in store.jobs.of_statuses("cancelled", "failed"):
        run = folder.job(job.id).run
        if job.finished is not None and job.finished < before and run.exists():
            shutil.rmtree(run, ignore_errors=True)
    store.jobs.forget_old_keys(now)
    store.sessions.end_expired(now)

"""What a crash has left undone between the database and the disk, done.

Everything here can be repeated, and a crash in the middle leaves work for the next time:

- A model's row comes before its link, and its deletion before the link's removal. So the links are
  made that are missing, and those are removed that no living model has.
- What may be had back for some days is removed after them: the row of a model after its files.
"""

import os
import shutil
import time
from pathlib import Path

from gossamer.errors import UnknownIdError
from gossamer.jobs.outcome import make_link, remove_link
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.scoped import EVERYONE

_DAY = 24 * 3600.0


def reconcile(store: JobStore, settings: JobsSettings) -> None:
    """Make the disk what the database says, at a server's start and from time to time."""
    mend_links(store, settings)
    forget_old(store, settings, time.time())


def mend_links(store: JobStore, settings: JobsSettings) -> None:
    """Make the links of models that lack them, and remove those of models that are gone."""
    folder = settings.folder
    # Looked at first: a link that is here now has its row by the next statement.
    links = {path.name: _target(path) for path in folder.served.iterdir()}
    models = {model.name: model for model in store.models.all()}
    for half in folder.served.glob(".*.tmp"):
        half.unlink(missing_ok=True)
    for name, target in links.items():
        # Other links, of checkpoints or second names, are not those of models.
        is_of_job = target[:2] == ["..", "jobs"] and target[3:] in (["run"], ["models", name])
        known = models.get(name)
        if is_of_job and (known is None or known.deleted is not None):
            remove_link(folder, name)
    for model in models.values():
        if model.deleted is None and not folder.link(model.name).is_symlink():
            make_link(folder, model.job_id, model.name)
            _undo_if_deleted(store, settings, model.name)


def forget_old(store: JobStore, settings: JobsSettings, now: float) -> None:
    """Remove for good what could have been had back until now."""
    before = now - settings.keep_days * _DAY
    for model in store.models.all():
        if model.deleted is not None and model.deleted < before:
            adapter = settings.folder.job(model.job_id).adapter(model.name)
            shutil.rmtree(adapter, ignore_errors=True)
            store.models.forget(model.name)
    for job in store.jobs.of_statuses("cancelled", "failed"):
        run = settings.folder.job(job.id).run
        if job.finished is not None and job.finished < before and run.exists():
            shutil.rmtree(run, ignore_errors=True)
    store.jobs.forget_old_keys(now)
    store.sessions.end_expired(now)


def _target(path: Path) -> list[str]:
    """The parts of the path that a link leads to; none of what is no link, or has gone."""
    try:
        return os.readlink(path).split(os.sep)
    except OSError:
        return []


def _undo_if_deleted(store: JobStore, settings: JobsSettings, model: str) -> None:
    try:
        store.models.get(EVERYONE, model)
    except UnknownIdError:
        remove_link(settings.folder, model)

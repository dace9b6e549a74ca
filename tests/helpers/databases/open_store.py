"""Stores that begin as a copy of tables made once: making them takes longer than most tests."""

import tempfile
from functools import cache

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore


def open_store(settings):
    """What `JobStore.open` does; of a SQLite file that is not there a copy is made."""
    file = settings.folder.database
    if settings.database is not None or file.exists():
        return JobStore.open(settings)
    settings.folder.make()
    file.write_bytes(_tables())
    file.chmod(0o600)
    return JobStore.join(settings)


@cache
def _tables():
    with tempfile.TemporaryDirectory() as folder:
        settings = JobsSettings(data_dir=f"{folder}/data")
        JobStore.open(settings).close()
        return settings.folder.database.read_bytes()

"""A store and a service of files on SQLite; what they keep is the same on either database."""

import pytest
from open_store import open_store

from gossamer.jobs.files.service import FileService
from gossamer.jobs.settings import JobsSettings


@pytest.fixture
def settings(tmp_path):
    return JobsSettings(data_dir=str(tmp_path / "data"), disk_floor_mib=1)


@pytest.fixture
def store(settings):
    store = open_store(settings)
    yield store
    store.close()


@pytest.fixture
def files(store, settings, monkeypatch):
    """A service whose disk has room, however full the machine's is."""
    from gossamer.jobs.files import service

    class Roomy:
        free, total = 2**50, 2**51

    monkeypatch.setattr(service.shutil, "disk_usage", lambda path: Roomy)
    return FileService(store, settings)

"""Stores on SQLite, and on PostgreSQL where there is one."""

from types import SimpleNamespace

import pytest
from open_store import open_store
from postgres_server import schema, served
from zygote import start as start_zygote

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.tables import TableRow


@pytest.fixture(scope="session")
def postgres_url():
    """The URL of a server in which schemas can be made."""
    with served() as url:
        yield url


@pytest.fixture
def postgres_schema(postgres_url):
    """The URL of an empty schema of the test's own."""
    with schema(postgres_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def new_settings(request, tmp_path):
    """Settings of jobs on either database, where there are no tables yet."""
    url = request.getfixturevalue("postgres_schema") if request.param == "postgresql" else None
    return JobsSettings(data_dir=str(tmp_path / "data"), database=url)


@pytest.fixture(scope="session")
def postgres_tables(postgres_url, tmp_path_factory):
    """The URL of a schema with all tables, to be emptied."""
    with schema(postgres_url) as url:
        folder = str(tmp_path_factory.mktemp("tables") / "data")
        JobStore.open(JobsSettings(data_dir=folder, database=url)).close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    """A store with all tables and nothing in them, on either database."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_tables")
    settings = JobsSettings(data_dir=str(tmp_path / "data"), database=url)
    if url is None:
        store = open_store(settings)
    else:
        settings.folder.make()
        store = JobStore.join(settings)
        with store.database.write() as session:
            names = ", ".join(TableRow.metadata.tables)
            session.connection().exec_driver_sql(f"TRUNCATE {names}")
    yield store
    store.close()


@pytest.fixture(scope="session")
def nursery(tiny_model, tmp_path_factory):
    """A process that forks workers and servers at once, and the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("zygote")
    process, door = start_zygote(tiny_model, folder)
    yield SimpleNamespace(zygote=door, whole=folder / "whole", model=tiny_model)
    process.kill()
    process.wait()

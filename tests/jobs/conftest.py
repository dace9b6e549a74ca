"""Stores on SQLite, and on PostgreSQL where there is one."""

import os
import uuid
from types import SimpleNamespace

import pytest
from postgres_server import MISSING, URL, PostgresServer, binaries
from zygote import start as start_zygote

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore


@pytest.fixture(scope="session")
def postgres_url():
    """The URL of a server in which schemas can be made."""
    if os.environ.get(URL):
        yield os.environ[URL]
        return
    programs = binaries()
    if programs is None:
        pytest.skip(MISSING)
    server = PostgresServer(programs)
    yield server.url
    server.stop()


@pytest.fixture
def postgres_schema(postgres_url):
    """The URL of an empty schema."""
    from sqlalchemy import create_engine

    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    joined = "&" if "?" in postgres_url else "?"
    yield f"{postgres_url}{joined}options=-csearch_path%3D{name}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request, tmp_path):
    """Settings of jobs on either database, in a folder of the test's own."""
    url = request.getfixturevalue("postgres_schema") if request.param == "postgresql" else None
    return JobsSettings(data_dir=str(tmp_path / "data"), database=url)


@pytest.fixture
def store(settings):
    """The store of `settings`, with all tables."""
    store = JobStore.open(settings)
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

"""A catalog on either database, and adapters to publish."""

import sys
import uuid
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from gossamer.cluster.published.catalog import AdapterCatalog

from tiny import make_lora, make_tiny_model

# The helper that starts a server for the tests of jobs.
sys.path.append(str(Path(__file__).parents[2] / "jobs"))


@pytest.fixture(scope="session")
def postgres():
    """The URL of a server of our own, or of the environment's."""
    import os

    from postgres_server import MISSING, URL, PostgresServer, binaries

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
def postgres_catalog(postgres):
    """The URL of an empty schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(postgres)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    joined = "&" if "?" in postgres else "?"
    yield f"{postgres}{joined}options=-csearch_path%3D{name}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request, tmp_path):
    """The URL of an empty catalog."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_catalog")
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def catalog(catalog_url):
    """An empty catalog."""
    found = AdapterCatalog(catalog_url)
    yield found
    found.close()


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """Three adapters of one tiny base."""
    folder = tmp_path_factory.mktemp("adapters")
    model = make_tiny_model(folder / "base")
    for number, name in enumerate(["poet", "pirate", "chef"]):
        make_lora(folder / name, model, rank=4, seed=number)
    return folder

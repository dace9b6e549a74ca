"""A catalog on either database, and adapters to publish."""

import pytest
from postgres_server import schema, served

from gossamer.cluster.published.catalog import AdapterCatalog

from tiny import make_lora, make_tiny_model


@pytest.fixture(scope="session")
def postgres():
    """The URL of a server of our own, or of the environment's."""
    with served() as url:
        yield url


@pytest.fixture
def postgres_catalog(postgres):
    """The URL of an empty schema."""
    with schema(postgres) as url:
        yield url


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

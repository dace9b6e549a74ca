"""Models of the first tables are the same after they have got aliases and folders."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, Table, insert

from gossamer.jobs.store import JobStore
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.migrate import MIGRATIONS, differences
from gossamer.jobs.store.records import ModelRecord
from gossamer.jobs.store.scoped import EVERYONE

JOB = "ftjob-" + "a" * 24
NAME = "ft:tiny:a::abcdefgh"


@pytest.fixture
def first_tables(new_settings):
    """A database as the first revision made it, with a job, a model and a permission."""
    new_settings.folder.make()
    database = Database(new_settings.database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        rows = {
            "jobs": {
                "id": JOB, "tenant": "a", "kind": "tune", "status": "succeeded", "wanted": "run",
                "wanted_since": 1.0, "attempt": 1, "model": "tiny", "training_file": "file-x",
                "name": NAME, "alias": None, "seed": 0, "request": {}, "request_sha256": "0" * 64,
                "resolved": {}, "saved_step": 0, "deaths": 0, "death_step": 0, "created": 1.0,
            },
            "models": {
                "name": NAME, "job_id": JOB, "tenant": "a", "digest": "d", "bytes": 7,
                "created": 2.0, "deleted": None,
            },
            "model_permissions": {
                "id": "cp_1", "model": NAME, "tenant": "a", "project": "b", "created": 3.0,
            },
        }  # fmt: skip
        for name, row in rows.items():
            connection.execute(insert(Table(name, MetaData(), autoload_with=connection)), [row])
    database.close()
    return new_settings


def test_models_and_permissions_stay(first_tables):
    store = JobStore.open(first_tables)
    assert differences(store.database) == []
    assert store.models.get("a", NAME) == ModelRecord(
        name=NAME,
        alias=None,
        job_id=JOB,
        folder=f"jobs/{JOB}/run",
        tenant="a",
        digest="d",
        bytes=7,
        created=2.0,
        deleted=None,
    )
    assert store.models.may_use("b", NAME)
    assert store.jobs.get(EVERYONE, JOB).name == NAME
    store.models.forget(NAME)
    assert store.models.rename("a", NAME, "pirate").alias == "pirate"
    store.close()

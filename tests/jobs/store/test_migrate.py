"""Tables are made and brought up to date, and those of a newer program are left alone."""

import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from job_helpers import add_file
from sqlalchemy import JSON, MetaData, inspect, select

from gossamer.errors import SettingError, StorageError
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.migrate import MIGRATIONS, differences, newest_revision, revision

REVISIONS = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]


@pytest.fixture
def opened(new_settings):
    """A store whose tables were made just now."""
    store = JobStore.open(new_settings)
    yield store
    store.close()


def test_the_migrations_make_the_tables_that_the_code_knows(opened):
    assert differences(opened.database) == []


def make_tables(settings, wanted):
    """The tables of a revision, as the version made them that had it."""
    settings.folder.make()
    database = Database(settings.database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, wanted)
    return database


def tables_of(connection):
    """The tables that there are, those first to which others refer."""
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def filled(connection, table):
    """A value for each column; all texts are the same, so that references lead to a row."""
    values = {}
    for column in table.columns:
        if isinstance(column.type, JSON):
            values[column.name] = {"a": [1]}
        else:
            kind = column.type.python_type
            values[column.name] = "x" if kind is str else kind(1)
    for check in inspect(connection).get_check_constraints(table.name):
        # The column stands first, then what it may be.
        name = next(word for word in re.findall(r"\w+", check["sqltext"]) if word in values)
        values[name] = re.search(r"'(\w+)'", check["sqltext"])[1]
    return values


@pytest.mark.parametrize("start", REVISIONS)
def test_tables_of_every_revision_are_brought_up_to_date_with_what_is_in_them(new_settings, start):
    before = {}
    database = make_tables(new_settings, start)
    with database.engine.begin() as connection:
        for table in tables_of(connection):
            before[table.name] = filled(connection, table)
            connection.execute(table.insert(), before[table.name])
    database.close()
    store = JobStore.open(new_settings)
    assert revision(store.database) == newest_revision()
    assert differences(store.database) == []
    with store.database.read() as session:
        for table in tables_of(session.connection()):
            rows = [dict(row) for row in session.execute(select(table)).mappings()]
            if table.name not in before:
                continue
            kept = before[table.name]
            assert [{name: row[name] for name in kept if name in row} for row in rows] == [
                {name: value for name, value in kept.items() if name in table.columns}
            ]
    assert len(before) > 10
    store.close()


def test_opening_again_keeps_what_is_there(opened, new_settings):
    file = add_file(opened)
    again = JobStore.open(new_settings)
    assert again.files.get("a", file.id) == file
    again.close()


def test_tables_that_are_up_to_date_are_opened_while_another_process_keeps_the_lock(tmp_path):
    settings = JobsSettings(data_dir=str(tmp_path / "data"))
    JobStore.open(settings).close()
    with closing(sqlite3.connect(settings.folder.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = JobStore.open(settings)
        assert store.supervisor.get() is None
        store.close()


def test_servers_that_start_together_make_the_tables_once(new_settings):
    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(lambda _: JobStore.open(new_settings), range(4)))
    assert differences(stores[0].database) == []
    for store in stores:
        store.close()


def test_tables_of_a_newer_program_are_refused(opened, new_settings):
    with opened.database.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match="revision 9999"):
        JobStore.open(new_settings)


def test_a_file_with_older_tables_is_copied_first(tmp_path, monkeypatch):
    settings = JobsSettings(data_dir=str(tmp_path / "data"))
    store = JobStore.open(settings)
    file = add_file(store)
    # The log that SQLite writes ahead is not merged while a connection is open.
    newest = newest_revision()
    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda self: f"after {newest}")
    JobStore.open(settings).close()
    backup = settings.folder.root / f"studio.sqlite.bak-{newest}"
    with sqlite3.connect(backup) as copied:
        assert copied.execute("SELECT id FROM files").fetchall() == [(file.id,)]
    store.close()


def test_the_data_are_for_their_owner_alone(tmp_path):
    settings = JobsSettings(data_dir=str(tmp_path / "data"))
    JobStore.open(settings).close()
    assert settings.folder.root.stat().st_mode & 0o777 == 0o700
    assert settings.folder.database.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("url", "reason"), [("mysql://host/name", "only sqlite and postgresql"), ("odd", "is no URL")]
)
def test_other_databases_are_refused(url, reason):
    with pytest.raises(SettingError, match=reason):
        Database(url)


def test_a_lease_must_outlive_heartbeats():
    with pytest.raises(SettingError, match="at least three times heartbeat_seconds"):
        JobsSettings.parse({"lease_seconds": 10, "heartbeat_seconds": 5})


def test_the_store_needs_no_heavy_package():
    heavy = ("torch", "transformers", "peft", "trl", "datasets", "numpy")
    code = (
        f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
        "from gossamer.jobs.store import JobStore"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

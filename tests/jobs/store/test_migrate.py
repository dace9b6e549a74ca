"""Tables are made and brought up to date, and those of a newer program are left alone."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_helpers import add_file

from gossamer.errors import SettingError, StorageError
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.migrate import differences


@pytest.fixture
def opened(new_settings):
    """A store whose tables were made just now."""
    store = JobStore.open(new_settings)
    yield store
    store.close()


def test_the_migrations_make_the_tables_that_the_code_knows(opened):
    assert differences(opened.database) == []


def test_opening_again_keeps_what_is_there(opened, new_settings):
    file = add_file(opened)
    again = JobStore.open(new_settings)
    assert again.files.get("a", file.id) == file
    again.close()


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
    from alembic.script import ScriptDirectory

    settings = JobsSettings(data_dir=str(tmp_path / "data"))
    store = JobStore.open(settings)
    file = add_file(store)
    # The log that SQLite writes ahead is not merged while a connection is open.
    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda self: "0002")
    JobStore.open(settings).close()
    backup = settings.folder.root / "studio.sqlite.bak-0001"
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

"""Brings the tables up to date when a server starts.

In one transaction: read which revision the tables have, refuse a newer one than this program
knows, change what is older. A SQLite file that has tables is copied before (`.bak-REVISION`). A
crash leaves the former state, and a copy that is made again.
"""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gossamer.errors import StorageError
from gossamer.files import replacing
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.tables import TableRow

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x676F7373
"""The number of the lock that two servers compete for which start at once."""


def upgrade(database: Database) -> None:
    """Make or change the tables; raises `StorageError` for those of a newer program."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    # Only to look needs no lock, which a process that was stopped may hold for long.
    before = revision(database)
    _refuse_newer(before, scripts)
    if before == scripts.get_current_head():
        return
    if before is not None and database.is_sqlite:
        _back_up(Path(str(database.engine.url.database)), before)
    with database.engine.begin() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        # Another server may have been faster.
        _refuse_newer(_revision(connection), scripts)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def differences(database: Database) -> list[object]:
    """What the tables lack, or have too much, compared with `tables`; empty: nothing."""
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        return list(compare_metadata(context, TableRow.metadata))


def revision(database: Database) -> str | None:
    """The revision of the tables; None: there are none. Raises `StorageError`."""
    with database.read() as session:
        return _revision(session.connection())


def newest_revision() -> str:
    """The revision that this program makes of all tables."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None
    return head


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(revision: str | None, scripts: ScriptDirectory) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise StorageError(
            f"the database has revision {revision}, which this version of Gossamer does not know; "
            "use the newer version that made it, or another --data-dir"
        )


def _back_up(path: Path, revision: str) -> None:
    """Copy a SQLite file as it is between two transactions, whatever its write-ahead log holds."""
    with replacing(path.with_name(f"{path.name}.bak-{revision}")) as scratch:
        source, target = sqlite3.connect(path), sqlite3.connect(scratch)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()

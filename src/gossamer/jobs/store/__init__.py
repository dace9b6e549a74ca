"""The tables of jobs: the only place that knows SQLAlchemy and Alembic.

`JobStore` is the door. What it returns are frozen records; what belongs to a tenant is asked for
with that tenant, and what is another's does not exist (`scoped`).
"""

from pathlib import Path

from gossamer.files import storing
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store.attempts import AttemptTable
from gossamer.jobs.store.database import Database
from gossamer.jobs.store.events import EventTable
from gossamer.jobs.store.files import FileTable, UploadTable
from gossamer.jobs.store.jobs import JobTable
from gossamer.jobs.store.migrate import upgrade
from gossamer.jobs.store.models import ModelTable
from gossamer.jobs.store.sessions import SessionTable
from gossamer.jobs.store.supervisor import SpeedTable, SupervisorTable


class JobStore:
    """All tables of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.files = FileTable(database)
        self.uploads = UploadTable(database)
        self.jobs = JobTable(database)
        self.attempts = AttemptTable(database)
        self.events = EventTable(database)
        self.models = ModelTable(database)
        self.sessions = SessionTable(database)
        self.supervisor = SupervisorTable(database)
        self.speeds = SpeedTable(database)

    @classmethod
    def open(cls, settings: JobsSettings) -> "JobStore":
        """Make the data folder and the tables, or bring them up to date.

        Raises `StorageError` or `SettingError`.
        """
        settings.folder.make()
        store = cls(Database(settings.database_url))
        try:
            with storing(f"cannot use the database of --data-dir {settings.folder.root}"):
                upgrade(store.database)
        except BaseException:
            store.close()
            raise
        if store.database.is_sqlite:
            _for_the_owner_alone(settings.folder.database)
        return store

    @classmethod
    def join(cls, settings: JobsSettings) -> "JobStore":
        """Use tables that a server has made, as a worker does."""
        return cls(Database(settings.database_url))

    def close(self) -> None:
        """Close all connections."""
        self.database.close()


def _for_the_owner_alone(path: Path) -> None:
    if path.exists():
        path.chmod(0o600)


__all__ = ["JobStore"]

"""Browsers that have logged in. The cookie is known by its SHA-256 alone."""

from sqlalchemy import ColumnElement, delete

from gossamer.jobs.store.database import Database
from gossamer.jobs.store.records import SessionRecord, record
from gossamer.jobs.store.tables import SessionRow


class SessionTable:
    """The sessions of all browsers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, session_record: SessionRecord) -> None:
        """Add a session."""
        with self._database.write() as session:
            session.add(
                SessionRow(
                    hash=session_record.hash,
                    key_id=session_record.key_id,
                    tenant=session_record.tenant,
                    admin=session_record.admin,
                    created=session_record.created,
                    expires=session_record.expires,
                )
            )

    def find(self, hash: str, now: float) -> SessionRecord | None:
        """The session with that hash, unless it has expired."""
        with self._database.read() as session:
            row = session.get(SessionRow, hash)
            return None if row is None or row.expires <= now else record(SessionRecord, row)

    def end(self, hash: str) -> None:
        """End a session, if there is one."""
        self._remove(SessionRow.hash == hash)

    def end_of_key(self, key_id: str) -> None:
        """End all sessions that a key has begun, as when it is revoked."""
        self._remove(SessionRow.key_id == key_id)

    def end_expired(self, now: float) -> None:
        """Remove sessions that are past their time."""
        self._remove(SessionRow.expires <= now)

    def _remove(self, which: ColumnElement[bool]) -> None:
        with self._database.write() as session:
            session.execute(delete(SessionRow).where(which))

"""Files, uploads in parts, and the blobs that hold their bytes.

Bytes are put on the disk first, the row comes after; so a row always has its bytes. Bytes that no
row refers to are swept in this order, none of whose gaps loses a byte that is wanted:

1. `unused_blobs` names them; `forget_blob` removes the row of one if it is still not referred to.
2. The sweeper renames the file away and asks `blob_is_used`; if an upload of the same bytes came
   meanwhile, it renames it back, otherwise it removes it.
3. An upload, after its row was committed, looks whether the blob is there, and links it again from
   its own copy in scratch, which it keeps until then.
"""

import time

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session

from gossamer.errors import JobError
from gossamer.jobs.ids import new_id
from gossamer.jobs.store.database import Database, insert_missing
from gossamer.jobs.store.records import (
    UNFINISHED,
    FileRecord,
    ListPage,
    UploadPartRecord,
    UploadRecord,
    record,
)
from gossamer.jobs.store.scoped import PageAsk, Tenant, fetch, owned, page_of
from gossamer.jobs.store.tables import (
    BlobRow,
    FileRow,
    JobRow,
    ModelRow,
    UploadPartRow,
    UploadRow,
)


class FileTable:
    """The files of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant: str,
        *,
        purpose: str,
        filename: str,
        bytes: int,
        sha256: str,
        expires: float | None = None,
        status: str = "uploaded",
    ) -> FileRecord:
        """Add a file whose bytes are on the disk already."""
        with self._database.write() as session:
            row = add_file(
                session,
                tenant,
                purpose=purpose,
                filename=filename,
                bytes=bytes,
                sha256=sha256,
                expires=expires,
                status=status,
            )
            return record(FileRecord, row)

    def get(self, tenant: Tenant, file_id: str) -> FileRecord:
        """The file; raises `UnknownIdError`."""
        with self._database.read() as session:
            return record(FileRecord, fetch(session, tenant, FileRow, file_id, what="file"))

    def page(
        self, tenant: Tenant, ask: PageAsk, purpose: str | None = None
    ) -> ListPage[FileRecord]:
        """A page of the files that are not deleted."""
        filters: list[ColumnElement[bool]] = [FileRow.deleted.is_(None)]
        if purpose is not None:
            filters.append(FileRow.purpose == purpose)
        with self._database.read() as session:
            return page_of(session, tenant, FileRow, FileRecord, ask, *filters, what="file")

    def set_status(self, file_id: str, status: str, details: str | None = None) -> None:
        """Note what the check of a file has found."""
        with self._database.write() as session:
            session.execute(
                update(FileRow)
                .where(FileRow.id == file_id)
                .values(status=status, status_details=details)
            )

    def unchecked(self) -> list[FileRecord]:
        """Files whose check has not run, the oldest first."""
        query = select(FileRow).where(FileRow.status == "uploaded", FileRow.deleted.is_(None))
        with self._database.read() as session:
            rows = session.scalars(query.order_by(FileRow.created, FileRow.id))
            return [record(FileRecord, row) for row in rows]

    def delete(self, tenant: Tenant, file_id: str) -> FileRecord:
        """Mark a file as deleted; raises `JobError` (file_in_use) while a job needs it."""
        with self._database.write() as session:
            row = fetch(session, tenant, FileRow, file_id, what="file", lock=True)
            user = session.scalar(
                select(JobRow.id).where(_uses(file_id), JobRow.status.in_(UNFINISHED)).limit(1)
            )
            if user is not None:
                raise JobError(
                    f"file {file_id} is used by job {user}; cancel that job first, or wait for it",
                    code="file_in_use",
                )
            row.deleted = time.time()
            return record(FileRecord, row)

    def expired(self, now: float) -> list[FileRecord]:
        """Files that are past their time and that no unfinished job needs."""
        needed = exists().where(
            (JobRow.training_file == FileRow.id) | (JobRow.validation_file == FileRow.id),
            JobRow.status.in_(UNFINISHED),
        )
        query = select(FileRow).where(FileRow.deleted.is_(None), FileRow.expires <= now, ~needed)
        with self._database.read() as session:
            return [record(FileRecord, row) for row in session.scalars(query)]

    def total_bytes(self, tenant: Tenant) -> int:
        """Bytes of all that the tenant has sent: files, each counted by itself, and models that it
        has imported, those in the trash too."""
        sizes = (
            owned(tenant, FileRow).where(FileRow.deleted.is_(None)),
            owned(tenant, ModelRow).where(ModelRow.job_id.is_(None)),
        )
        columns = (FileRow.bytes, ModelRow.bytes)
        with self._database.read() as session:
            return sum(
                int(session.scalar(query.with_only_columns(func.sum(column))) or 0)
                for query, column in zip(sizes, columns, strict=True)
            )

    def unused_blobs(self) -> list[str]:
        """Digests of the blobs that no file refers to which exists or which a job still needs."""
        with self._database.read() as session:
            return list(session.scalars(select(BlobRow.sha256).where(~_referred())))

    def forget_blob(self, sha256: str) -> bool:
        """Remove the row of a blob; False if it is referred to after all."""
        with self._database.write() as session:
            # First held, then judged: only the second statement sees who came meanwhile.
            held = select(BlobRow).where(BlobRow.sha256 == sha256)
            row = session.scalars(held.with_for_update()).one_or_none()
            unused = select(BlobRow.sha256).where(BlobRow.sha256 == sha256, ~_referred())
            if row is None or session.scalar(unused) is None:
                return False
            session.delete(row)
            return True

    def blob_is_used(self, sha256: str) -> bool:
        """Whether there is a row of that blob."""
        with self._database.read() as session:
            return session.get(BlobRow, sha256) is not None


class UploadTable:
    """Uploads in parts; their bytes lie in scratch under the identifiers of the parts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant: str,
        *,
        purpose: str,
        filename: str,
        mime_type: str,
        bytes: int,
        expires: float,
    ) -> UploadRecord:
        """Begin an upload."""
        with self._database.write() as session:
            row = UploadRow(
                id=new_id("upload_"),
                tenant=tenant,
                purpose=purpose,
                filename=filename,
                mime_type=mime_type,
                bytes=bytes,
                status="pending",
                created=time.time(),
                expires=expires,
                file_id=None,
            )
            session.add(row)
            return record(UploadRecord, row)

    def get(self, tenant: Tenant, upload_id: str) -> UploadRecord:
        """The upload; raises `UnknownIdError`."""
        with self._database.read() as session:
            return record(UploadRecord, fetch(session, tenant, UploadRow, upload_id, what="upload"))

    def add_part(
        self, tenant: Tenant, upload_id: str, *, bytes: int, part_id: str | None = None
    ) -> UploadPartRecord:
        """Add a part whose bytes are in scratch under `part_id`.

        Raises `JobError` (wrong_state) unless the upload is pending.
        """
        with self._database.write() as session:
            upload = _pending(session, tenant, upload_id)
            row = UploadPartRow(
                id=part_id or new_id("part_"),
                upload_id=upload.id,
                tenant=upload.tenant,
                bytes=bytes,
                created=time.time(),
            )
            session.add(row)
            return record(UploadPartRecord, row)

    def parts(self, tenant: Tenant, upload_id: str) -> list[UploadPartRecord]:
        """All parts of an upload, as they came."""
        with self._database.read() as session:
            fetch(session, tenant, UploadRow, upload_id, what="upload")
            rows = session.scalars(
                owned(tenant, UploadPartRow)
                .where(UploadPartRow.upload_id == upload_id)
                .order_by(UploadPartRow.created, UploadPartRow.id)
            )
            return [record(UploadPartRecord, row) for row in rows]

    def complete(self, tenant: Tenant, upload_id: str, *, sha256: str) -> FileRecord:
        """Make the upload a file; its bytes, all parts joined, are on the disk already."""
        with self._database.write() as session:
            upload = _pending(session, tenant, upload_id)
            file = add_file(
                session,
                upload.tenant,
                purpose=upload.purpose,
                filename=upload.filename,
                bytes=upload.bytes,
                sha256=sha256,
            )
            upload.status, upload.file_id = "completed", file.id
            return record(FileRecord, file)

    def cancel(self, tenant: Tenant, upload_id: str) -> UploadRecord:
        """Give an upload up; raises `JobError` (wrong_state) unless it is pending."""
        with self._database.write() as session:
            upload = _pending(session, tenant, upload_id)
            upload.status = "cancelled"
            return record(UploadRecord, upload)

    def expire(self, now: float) -> list[UploadRecord]:
        """End the uploads that are past their time, and return them: their parts can go."""
        query = select(UploadRow).where(UploadRow.status == "pending", UploadRow.expires <= now)
        with self._database.write() as session:
            rows = list(session.scalars(query.with_for_update()))
            for row in rows:
                row.status = "expired"
            return [record(UploadRecord, row) for row in rows]

    def living_parts(self) -> set[str]:
        """Identifiers of the parts of pending uploads; all other files of parts can go."""
        query = select(UploadPartRow.id).join(UploadRow).where(UploadRow.status == "pending")
        with self._database.read() as session:
            return set(session.scalars(query))


def add_file(
    session: Session,
    tenant: str,
    *,
    purpose: str,
    filename: str,
    bytes: int,
    sha256: str,
    expires: float | None = None,
    status: str = "uploaded",
) -> FileRow:
    """Add a file and, if it is not known, its blob, in the caller's transaction."""
    _hold_blob(session, sha256, bytes)
    row = FileRow(
        id=new_id("file-"),
        tenant=tenant,
        purpose=purpose,
        filename=filename,
        bytes=bytes,
        sha256=sha256,
        status=status,
        status_details=None,
        created=time.time(),
        expires=expires,
        deleted=None,
    )
    session.add(row)
    return row


def usable_file(session: Session, tenant: Tenant, file_id: str, *, param: str) -> FileRow:
    """A file that a job may begin with, kept from deletion until the transaction ends.

    Raises `UnknownIdError`, or `JobError` (invalid_file) for one that its check has refused.
    """
    row = fetch(session, tenant, FileRow, file_id, what="file", lock=True)
    if row.status == "error":
        raise JobError(
            f"file {file_id} cannot be used: {row.status_details}",
            code="invalid_file",
            param=param,
        )
    return row


def _pending(session: Session, tenant: Tenant, upload_id: str) -> UploadRow:
    row = fetch(session, tenant, UploadRow, upload_id, what="upload", lock=True)
    if row.status != "pending":
        raise JobError(f"upload {upload_id} is {row.status}; begin another one", code="wrong_state")
    return row


def _hold_blob(session: Session, sha256: str, size: int) -> None:
    """Have a row of the blob that no sweeper removes before this transaction ends."""
    held = select(BlobRow.sha256).where(BlobRow.sha256 == sha256).with_for_update()
    while True:
        insert_missing(session, BlobRow, sha256=sha256, bytes=size, created=time.time())
        # A sweeper may have removed it between the two statements.
        if session.scalars(held).one_or_none() is not None:
            return


def _uses(file_id: str) -> ColumnElement[bool]:
    return (JobRow.training_file == file_id) | (JobRow.validation_file == file_id)


def _referred() -> ColumnElement[bool]:
    """Whether a blob has a file that exists, or that a job needs which is not over."""
    needed = exists().where(
        (JobRow.training_file == FileRow.id) | (JobRow.validation_file == FileRow.id),
        JobRow.status.in_(UNFINISHED),
    )
    return exists().where(FileRow.sha256 == BlobRow.sha256, FileRow.deleted.is_(None) | needed)

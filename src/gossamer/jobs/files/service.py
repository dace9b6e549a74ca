"""Files and uploads of tenants, from the end of a form to their deletion. Not for the event loop.

Bytes are on the disk before a row says so, and a row goes before its bytes; see `store.files`.
"""

import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import JobError, cut
from gossamer.jobs.files.blobs import BlobFolder
from gossamer.jobs.files.desk import Desk
from gossamer.jobs.files.form import Form, FormReceiver
from gossamer.jobs.files.names import check_name, check_purpose
from gossamer.jobs.files.scratch import ScratchFile
from gossamer.jobs.ids import new_id
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.store.records import FileRecord, UploadPartRecord, UploadRecord
from gossamer.jobs.store.scoped import Tenant

_MIB = 2**20
MAX_PART_BYTES = 64 * _MIB
UPLOAD_SECONDS = 3600.0
MIN_EXPIRY, MAX_EXPIRY = 3600, 2_592_000
COPY_BYTES = _MIB
SPARE_PARTS = 2
"""Parts of an upload may together be this many times as large as the file: some are sent twice."""

_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_FORM_FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """A file that is to come in parts."""

    bytes: int
    filename: str
    mime_type: str
    purpose: str


class FileService:
    """The files of one server."""

    def __init__(self, store: JobStore, settings: JobsSettings) -> None:
        self._store = store
        self._settings = settings
        self._folder = settings.folder
        self.blobs = BlobFolder(settings.folder)
        self.desk = Desk(store, self.blobs)
        self._adding = threading.Lock()

    @property
    def max_bytes(self) -> int:
        """The largest file that is taken in one request."""
        return self._settings.max_upload_mib * _MIB

    def receive(self, content_type: str, num_bytes: int) -> FormReceiver:
        """Begin to take in a form with the part `file`; `num_bytes` are announced.

        Raises `JobError`, also for a disk that has no room.
        """
        self._require_room(num_bytes)
        return FormReceiver(
            content_type,
            self._folder.scratch,
            file_field="file",
            max_bytes=self.max_bytes,
            limit_name="--max-upload-mib",
        )

    def receive_part(self, content_type: str, num_bytes: int) -> FormReceiver:
        """Begin to take in a form with the part `data` of an upload; as `receive`."""
        self._require_room(num_bytes)
        return FormReceiver(
            content_type,
            self._folder.scratch,
            file_field="data",
            max_bytes=MAX_PART_BYTES,
            limit_name="the most for a part of an upload",
        )

    def add(self, tenant: str, form: Form, *, max_total: int | None = None) -> FileRecord:
        """Make a file of a form; `max_total` bounds the bytes of all the tenant's files.

        Raises `JobError` or `StorageError`; the form's file has gone in any case.
        """
        with form.file:
            _refuse_fields(form.fields)
            purpose = check_purpose(form.fields.get("purpose"))
            name = check_name(form.filename, purpose)
            expires = _expiry(form.fields)
            if not form.file.num_bytes:
                raise JobError(f"'{cut(name)}' is empty", code="invalid_file", param="file")
            sha256 = self.blobs.add(form.file)
            with self._adding:
                self._require_quota(tenant, form.file.num_bytes, max_total)
                record = self._store.files.create(
                    tenant,
                    purpose=purpose,
                    filename=name,
                    bytes=form.file.num_bytes,
                    sha256=sha256,
                    expires=expires,
                )
            # A sweeper may have removed the same bytes before it could know of the row.
            self.blobs.link(form.file, sha256)
        self.desk.wake()
        return record

    def content(self, tenant: Tenant, file_id: str) -> tuple[FileRecord, Path]:
        """A file and the place of its bytes; raises `UnknownIdError`."""
        record = self._store.files.get(tenant, file_id)
        return record, self.blobs.path(record.sha256)

    def add_result(self, tenant: str, filename: str, content: bytes, purpose: str) -> FileRecord:
        """Keep a small file that the server has made for a tenant."""
        with ScratchFile(self._folder.scratch) as file:
            file.write(content)
            sha256 = self.blobs.add(file)
            record = self._store.files.create(
                tenant,
                purpose=purpose,
                filename=filename,
                bytes=len(content),
                sha256=sha256,
                status="processed",
            )
            self.blobs.link(file, sha256)
        return record

    # Uploads in parts.

    def begin(self, tenant: str, new: NewUpload, *, max_total: int | None = None) -> UploadRecord:
        """Begin an upload; raises `JobError`."""
        purpose = check_purpose(new.purpose)
        name = check_name(new.filename, purpose)
        limit = self._settings.max_upload_total_mib * _MIB
        if not 0 < new.bytes <= limit:
            raise JobError(
                f"bytes={new.bytes} must be above 0 and at most {limit} "
                f"({limit // _MIB} MiB, --max-upload-total-mib)",
                code="file_too_large",
                param="bytes",
            )
        self._require_room(new.bytes)
        self._require_quota(tenant, new.bytes, max_total)
        return self._store.uploads.create(
            tenant,
            purpose=purpose,
            filename=name,
            mime_type=new.mime_type,
            bytes=new.bytes,
            expires=time.time() + UPLOAD_SECONDS,
        )

    def add_part(self, tenant: str, upload_id: str, form: Form) -> UploadPartRecord:
        """Make a part of a form; raises `JobError` or `StorageError`."""
        with form.file:
            upload = self._pending(tenant, upload_id)
            size = form.file.num_bytes
            if not size:
                raise JobError("the part is empty", code="invalid_file", param="data")
            before = sum(part.bytes for part in self._store.uploads.parts(tenant, upload_id))
            if size > upload.bytes or before + size > SPARE_PARTS * upload.bytes:
                raise JobError(
                    f"the parts are larger than the upload's bytes={upload.bytes}",
                    code="invalid_file",
                    param="data",
                )
            form.file.flush()
            part_id = new_id("part_")
            place = self._part(part_id)
            form.file.keep_as(place)
            try:
                return self._store.uploads.add_part(tenant, upload_id, bytes=size, part_id=part_id)
            except BaseException:
                place.unlink(missing_ok=True)
                raise

    def complete(
        self, tenant: str, upload_id: str, part_ids: list[str], md5: str | None = None
    ) -> tuple[UploadRecord, FileRecord]:
        """Join parts, in the order of `part_ids`, to a file; raises `JobError`."""
        upload = self._pending(tenant, upload_id)
        if md5 is not None and not _MD5.fullmatch(md5):
            raise JobError("md5 must be 32 hexadecimal digits", code="invalid_value", param="md5")
        parts = {part.id: part for part in self._store.uploads.parts(tenant, upload_id)}
        for number, part_id in enumerate(part_ids):
            if part_id not in parts or part_id in part_ids[:number]:
                raise JobError(
                    f"'{cut(part_id)}' is no part of this upload, or is named twice",
                    code="invalid_value",
                    param="part_ids",
                )
        total = sum(parts[part_id].bytes for part_id in part_ids)
        if total != upload.bytes:
            raise JobError(
                f"the parts have {total} bytes together, the upload bytes={upload.bytes}",
                code="invalid_file",
                param="part_ids",
            )
        with ScratchFile(self._folder.scratch) as file:
            for part_id in part_ids:
                _append(file, self._part(part_id))
            if md5 is not None and file.md5 != md5.lower():
                raise JobError(
                    f"the joined parts have md5 {file.md5}, not {md5}; send them again",
                    code="invalid_file",
                    param="md5",
                )
            sha256 = self.blobs.add(file)
            record = self._store.uploads.complete(tenant, upload_id, sha256=sha256)
            self.blobs.link(file, sha256)
        self.remove_parts(tenant, upload_id)
        self.desk.wake()
        return self._store.uploads.get(tenant, upload_id), record

    def cancel(self, tenant: str, upload_id: str) -> UploadRecord:
        """Give an upload up; raises `JobError`."""
        self._pending(tenant, upload_id)
        upload = self._store.uploads.cancel(tenant, upload_id)
        self.remove_parts(tenant, upload_id)
        return upload

    def remove_parts(self, tenant: Tenant, upload_id: str) -> None:
        """Remove the bytes of an upload's parts."""
        for part in self._store.uploads.parts(tenant, upload_id):
            self._part(part.id).unlink(missing_ok=True)

    def _pending(self, tenant: str, upload_id: str) -> UploadRecord:
        upload = self._store.uploads.get(tenant, upload_id)
        if upload.status == "pending" and upload.expires <= time.time():
            self._store.uploads.expire(time.time())
            upload = self._store.uploads.get(tenant, upload_id)
        if upload.status != "pending":
            raise JobError(
                f"upload {upload_id} is {upload.status}; begin another one", code="wrong_state"
            )
        return upload

    def _part(self, part_id: str) -> Path:
        return self._folder.scratch / part_id

    def _require_room(self, num_bytes: int) -> None:
        disk = shutil.disk_usage(self._folder.root)
        floor = max(self._settings.disk_floor_mib * _MIB, disk.total // 20)
        if disk.free - num_bytes < floor:
            raise JobError(
                f"the disk of --data-dir has {disk.free // _MIB} MiB free, of which "
                f"{floor // _MIB} MiB must stay; delete files, or free space there",
                code="insufficient_disk",
            )

    def _require_quota(self, tenant: str, num_bytes: int, max_total: int | None) -> None:
        if max_total is None:
            return
        used = self._store.files.total_bytes(tenant)
        if used + num_bytes > max_total:
            raise JobError(
                f"your files have {used / _MIB:.1f} of {max_total / _MIB:g} MiB (storage_mib), and "
                f"this one {num_bytes / _MIB:.1f}; delete some first",
                code="storage_exceeded",
            )


def _append(file: ScratchFile, part: Path) -> None:
    with part.open("rb") as stream:
        while piece := stream.read(COPY_BYTES):
            file.write(piece)


def _refuse_fields(fields: Mapping[str, str]) -> None:
    unknown = sorted(set(fields) - _FORM_FIELDS)
    if unknown:
        raise JobError(
            f"unknown field '{cut(unknown[0])}'; known: file, {', '.join(sorted(_FORM_FIELDS))}",
            code="unsupported_parameter",
            param=cut(unknown[0]),
        )


def _expiry(fields: Mapping[str, str]) -> float | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    wanted = int(seconds) if seconds and re.fullmatch(r"[0-9]{1,9}", seconds) else 0
    if anchor != "created_at" or not MIN_EXPIRY <= wanted <= MAX_EXPIRY:
        raise JobError(
            f"expires_after needs anchor=created_at and seconds of {MIN_EXPIRY} to {MAX_EXPIRY}",
            code="invalid_value",
            param="expires_after",
        )
    return time.time() + wanted

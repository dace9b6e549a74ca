"""OpenAI's objects: what is shown of files, uploads and permissions."""

from typing import Any

from gossamer.jobs.store.records import (
    FileRecord,
    ModelPermissionRecord,
    UploadPartRecord,
    UploadRecord,
)

Shown = dict[str, Any]


def file_object(file: FileRecord) -> Shown:
    """Show a file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details,
        "expires_at": None if file.expires is None else int(file.expires),
    }


def upload_object(upload: UploadRecord, file: FileRecord | None = None) -> Shown:
    """Show an upload, with its file once it is complete."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created),
        "expires_at": int(upload.expires),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": None if file is None else file_object(file),
    }


def part_object(part: UploadPartRecord) -> Shown:
    """Show a part of an upload."""
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": int(part.created),
        "upload_id": part.upload_id,
    }


def permission_object(permission: ModelPermissionRecord) -> Shown:
    """Show who else may use a model."""
    return {
        "id": permission.id,
        "object": "checkpoint.permission",
        "created_at": int(permission.created),
        "project_id": permission.project,
    }

"""Large files that come in parts."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from gossamer.jobs.files.service import MAX_PART_BYTES, NewUpload
from gossamer.serving.http.body import read_past
from gossamer.studio.body import StrictBody, read_object
from gossamer.studio.context import Studio, storage_of, trainer
from gossamer.studio.routes.receive import receive_form
from gossamer.studio.view.files import part_object, upload_object

router = APIRouter()

MAX_PARTS = 10_000


class UploadBody(StrictBody):
    """The body of POST /v1/uploads."""

    bytes: int
    """Bytes of the whole file."""
    filename: str = Field(min_length=1, max_length=1024)
    """Name of the file."""
    mime_type: str = Field(max_length=255)
    """Kind of the file; not used."""
    purpose: str = Field(max_length=64)
    """fine-tune, evals or user_data."""


class CompleteBody(StrictBody):
    """The body of POST /v1/uploads/{upload_id}/complete."""

    part_ids: list[str] = Field(min_length=1, max_length=MAX_PARTS)
    """The parts in the order in which they make the file."""
    md5: str | None = None
    """MD5 of the whole file, to find damage on the way."""


@router.post("/v1/uploads")
async def begin_upload(http: Request) -> JSONResponse:
    """Begin an upload in parts, for files beyond the limit of one request."""
    caller, studio = trainer(http), Studio.of(http)
    body = UploadBody.parse(await read_object(http))
    new = NewUpload(**dict(body))
    limit = storage_of(http, caller)
    begin = partial(studio.files.begin, caller.tenant, new, max_total=limit)
    return JSONResponse(upload_object(await studio.run(http, begin)))


@router.post("/v1/uploads/{upload_id}/parts")
async def add_part(http: Request, upload_id: str) -> JSONResponse:
    """Take in a part, as a multipart form with `data`, of at most 64 MiB."""
    caller, studio = trainer(http), Studio.of(http)
    await studio.run(http, partial(studio.store.uploads.get, caller.tenant, upload_id))
    form = await receive_form(http, studio.files.receive_part, MAX_PART_BYTES)
    with form.file:
        add = partial(studio.files.add_part, caller.tenant, upload_id, form)
        return JSONResponse(part_object(await studio.run(http, add)))


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(http: Request, upload_id: str) -> JSONResponse:
    """Join the parts to a file; together they must have the upload's bytes."""
    caller, studio = trainer(http), Studio.of(http)
    body = CompleteBody.parse(await read_object(http))
    work: Any = partial(studio.files.complete, caller.tenant, upload_id, body.part_ids, body.md5)
    upload, file = await studio.run(http, work)
    return JSONResponse(upload_object(upload, file))


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(http: Request, upload_id: str) -> JSONResponse:
    """Give an upload up and forget its parts."""
    caller, studio = trainer(http), Studio.of(http)
    await read_past(http)
    cancel = partial(studio.files.cancel, caller.tenant, upload_id)
    return JSONResponse(upload_object(await studio.run(http, cancel)))

"""Files of training data: sent, listed, looked at, downloaded, deleted."""

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from gossamer.jobs.files.names import PURPOSES, RESULTS
from gossamer.serving.http.errors import ApiError
from gossamer.studio.context import Studio, scope_of, storage_of, trainer
from gossamer.studio.routes.lists import as_list, page_ask
from gossamer.studio.routes.receive import receive_form
from gossamer.studio.view.files import file_object

router = APIRouter()

DEFAULT_LIMIT = 10_000


@router.post("/v1/files")
async def create_file(http: Request) -> JSONResponse:
    """Take in a file as a multipart form with `purpose` and `file`; its check follows."""
    caller, studio = trainer(http), Studio.of(http)
    limit = storage_of(http, caller)
    form = await receive_form(http, studio.files.receive, studio.files.max_bytes)
    with form.file:
        add = partial(studio.files.add, caller.tenant, form, max_total=limit)
        return JSONResponse(file_object(await studio.run(http, add)))


@router.get("/v1/files")
async def list_files(http: Request) -> JSONResponse:
    """List files, the newest first; `purpose`, `limit`, `after` and `order` choose."""
    caller, studio = trainer(http), Studio.of(http)
    ask = page_ask(http, limit=DEFAULT_LIMIT, more=("purpose",))
    purpose = http.query_params.get("purpose")
    if purpose is not None and purpose not in (*PURPOSES, RESULTS):
        known = ", ".join((*PURPOSES, RESULTS))
        raise ApiError(
            400, f"'purpose' must be one of {known}", code="invalid_value", param="purpose"
        )
    find = partial(studio.store.files.page, scope_of(caller), ask, purpose)
    page = await studio.run(http, find)
    return JSONResponse(as_list([file_object(f) for f in page.data], has_more=page.has_more))


@router.get("/v1/files/{file_id}")
async def show_file(http: Request, file_id: str) -> JSONResponse:
    """Show a file; its `status` is processed, or error, once its rows have been looked at."""
    caller, studio = trainer(http), Studio.of(http)
    find = partial(studio.store.files.get, scope_of(caller), file_id)
    return JSONResponse(file_object(await studio.run(http, find)))


@router.get("/v1/files/{file_id}/content")
async def download_file(http: Request, file_id: str) -> Response:
    """Send the bytes of a file."""
    caller, studio = trainer(http), Studio.of(http)
    find = partial(studio.files.content, scope_of(caller), file_id)
    record, path = await studio.run(http, find)
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename=record.filename,
        headers={"X-Content-Type-Options": "nosniff"},
    )


@router.get("/v1/files/{file_id}/report")
async def report_on_file(http: Request, file_id: str) -> JSONResponse:
    """Tell what is in a file: rows, format, and what is wrong with the first bad ones."""
    caller, studio = trainer(http), Studio.of(http)
    record = await studio.run(http, partial(studio.store.files.get, scope_of(caller), file_id))
    report = await studio.run(http, partial(studio.files.desk.report, record))
    if report is None:
        waits = "is being looked at; try again" if record.status == "uploaded" else "has no rows"
        raise ApiError(404, f"file {file_id} {waits}", code="report_not_found")
    return JSONResponse({"object": "file.report", "file_id": record.id, **report})


@router.delete("/v1/files/{file_id}")
async def delete_file(http: Request, file_id: str) -> JSONResponse:
    """Delete a file that no unfinished job needs."""
    caller, studio = trainer(http), Studio.of(http)
    delete = partial(studio.store.files.delete, scope_of(caller), file_id)
    record = await studio.run(http, delete)
    return JSONResponse({"id": record.id, "object": "file", "deleted": True})

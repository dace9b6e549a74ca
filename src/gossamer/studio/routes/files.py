"""Files of training data: sent, listed, looked at, downloaded, deleted."""

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from gossamer.jobs.files.names import PURPOSES, RESULTS, has_rows
from gossamer.serving.http.errors import ApiError
from gossamer.studio.context import Studio, scope_of, storage_of, trainer
from gossamer.studio.routes.lists import (
    as_list,
    page_ask,
    refuse_unknown,
    whole_number,
    wrong_value,
)
from gossamer.studio.routes.receive import receive_form
from gossamer.studio.view.files import file_object

router = APIRouter()

DEFAULT_LIMIT = 10_000
DEFAULT_ROWS, MAX_ROWS = 20, 100
UNREAD = {"complete": False, "rows": {"read": 0, "used": 0, "bad": 0}}
"""What is known of a file before its first rows have been read."""
TRAIN_ON = ("completion", "last", "all")


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
    """Tell what is in a file: rows, format, what repeats, and what is wrong with the first bad
    ones; of a long file that is being read, what is known up to now (`complete` is false). With
    `held_out`, a file, also what both have in common."""
    caller, studio = trainer(http), Studio.of(http)
    refuse_unknown(http, ("held_out",))
    record = await studio.run(http, partial(studio.store.files.get, scope_of(caller), file_id))
    desk = studio.files.desk
    report = await studio.run(http, partial(desk.report, record)) or desk.progress(record)
    if report is None and (record.status != "uploaded" or not has_rows(record.purpose)):
        raise ApiError(404, f"file {file_id} has no rows", code="report_not_found")
    found = {"object": "file.report", "file_id": record.id, **(report or UNREAD)}
    if (other := http.query_params.get("held_out")) is not None:
        find = partial(studio.store.files.get, scope_of(caller), other)
        held_out = await studio.run(http, find)
        compare = partial(desk.overlap, record, held_out)
        found["overlap"] = await studio.run(http, compare)
    return JSONResponse(found)


@router.get("/v1/files/{file_id}/rows")
async def show_rows(http: Request, file_id: str) -> JSONResponse:
    """Show `count` rows of a file, from the one at the place `from` on (the first is 1), as the
    model sees them: in the chat template, with the stretches marked that are learnt."""
    caller, studio = trainer(http), Studio.of(http)
    refuse_unknown(http, ("from", "count", "train_on"))
    start = whole_number(http, "from", default=1, most=10**9)
    count = whole_number(http, "count", default=DEFAULT_ROWS, most=MAX_ROWS)
    train_on = http.query_params.get("train_on", TRAIN_ON[0])
    if train_on not in TRAIN_ON:
        raise wrong_value("train_on", train_on, f"one of {', '.join(TRAIN_ON)}")
    record = await studio.run(http, partial(studio.store.files.get, scope_of(caller), file_id))
    if not has_rows(record.purpose):
        message = f"file {file_id} has no rows to learn from"
        raise ApiError(404, message, code="rows_not_found")
    show = partial(studio.preview.rows, record, start=start, count=count, train_on=train_on)
    found = await studio.run(http, show)
    return JSONResponse({"object": "list", "file_id": record.id, **found})


@router.delete("/v1/files/{file_id}")
async def delete_file(http: Request, file_id: str) -> JSONResponse:
    """Delete a file that no unfinished job needs."""
    caller, studio = trainer(http), Studio.of(http)
    delete = partial(studio.store.files.delete, scope_of(caller), file_id)
    record = await studio.run(http, delete)
    return JSONResponse({"id": record.id, "object": "file", "deleted": True})

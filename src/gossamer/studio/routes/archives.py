"""Results as zips: downloaded, and taken in from elsewhere."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import StreamingResponse

from gossamer.errors import cut
from gossamer.jobs.results.imports import NewImport
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.studio.api.guests import require_caller
from gossamer.studio.context import Studio, owner, scope_of, storage_of, trainer
from gossamer.studio.routes.receive import receive_form
from gossamer.studio.view.models import model_object

router = APIRouter(include_in_schema=False)

IMPORTS = "/studio/api/imports"


@router.get("/studio/api/models/{name}/archive")
async def download_model(http: Request, name: str) -> StreamingResponse:
    """Send the files of a model as a zip: adapter, card, run.yaml and step_metrics.csv."""
    caller, studio = require_caller(http), Studio.of(http)
    begin = partial(studio.models.archive, scope_of(caller), name)
    label, pieces = await studio.run(http, begin)
    return StreamingResponse(
        pieces,
        media_type="application/octet-stream",
        headers={
            "Content-Disposition": f'attachment; filename="{label}.zip"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


@router.post(IMPORTS)
async def import_model(http: Request) -> JSONResponse:
    """Take in an adapter as a multipart form with `name` and `file`, a zip of its folder, and serve
    it as `name`; answers when that is done."""
    caller, studio, context = owner(http), Studio.of(http), Context.of(http)
    trainer(http)
    limit = studio.files.max_bytes
    form = await receive_form(http, studio.files.receive, limit)
    with form.file:
        new = NewImport(
            tenant=caller.tenant,
            base=context.engine.model_name,
            alias=_name(form.fields),
            path=form.file.path,
            max_bytes=limit,
            max_total=storage_of(http, caller),
        )
        work = partial(studio.models.import_zip, context.engine, new)
        model, left = await studio.run(http, work)
    context.catalogue.forget()
    return JSONResponse({**model_object(model, studio.models.keep_seconds), "left_out": left})


def _name(fields: dict[str, str]) -> str:
    for field in fields:
        if field != "name":
            message = f"unknown field '{cut(field)}'; known: name, file"
            raise ApiError(400, message, code="unknown_parameter", param=cut(field))
    name = fields.get("name", "").strip()
    if not name:
        message = "the field 'name' is missing; give the name that the adapter is to have"
        raise ApiError(400, message, code="invalid_value", param="name")
    return name

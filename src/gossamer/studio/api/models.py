"""/studio/api/models: a tuned model gets a name of one's own, and comes back from the trash."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from gossamer.jobs.store.records import ModelRecord
from gossamer.serving.http.body import read_past
from gossamer.serving.http.context import Context
from gossamer.studio.api.guests import require_caller
from gossamer.studio.body import StrictBody, read_object
from gossamer.studio.context import Studio, scope_of
from gossamer.studio.view.models import model_object

router = APIRouter(include_in_schema=False)


class AliasBody(StrictBody):
    """The body of POST /studio/api/models/{model}/alias."""

    alias: str = Field(min_length=1)
    """The name; one that the model had before is given up."""


@router.get("/studio/api/trash")
async def list_trash(http: Request) -> JSONResponse:
    """List the deleted models that can be had back, the last one first."""
    caller, studio = require_caller(http), Studio.of(http)
    found = await studio.run(http, partial(studio.models.trash, scope_of(caller)))
    data = [model_object(model, studio.models.keep_seconds) for model in found]
    return JSONResponse({"object": "list", "data": data})


@router.post("/studio/api/models/{name}/alias")
async def keep_model(http: Request, name: str) -> JSONResponse:
    """Serve a model under a name of one's own choice, beside the one that it has for good."""
    caller = require_caller(http)
    alias = AliasBody.parse(await read_object(http)).alias
    studio, engine = Studio.of(http), Context.of(http).engine
    rename = partial(studio.models.rename, engine, scope_of(caller), name, alias)
    return _answer(http, await studio.run(http, rename))


@router.delete("/studio/api/models/{name}/alias")
async def drop_alias(http: Request, name: str) -> JSONResponse:
    """Take that name away again."""
    caller = require_caller(http)
    await read_past(http)
    studio, engine = Studio.of(http), Context.of(http).engine
    rename = partial(studio.models.rename, engine, scope_of(caller), name, None)
    return _answer(http, await studio.run(http, rename))


@router.post("/studio/api/models/{name}/restore")
async def restore_model(http: Request, name: str) -> JSONResponse:
    """Bring a deleted model back."""
    caller = require_caller(http)
    await read_past(http)
    studio, engine = Studio.of(http), Context.of(http).engine
    restore = partial(studio.models.restore, engine, scope_of(caller), name)
    return _answer(http, await studio.run(http, restore))


def _answer(http: Request, model: ModelRecord) -> JSONResponse:
    Context.of(http).catalogue.forget()
    return JSONResponse(model_object(model, Studio.of(http).models.keep_seconds))

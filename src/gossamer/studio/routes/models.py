"""Tuned models: deleted, and shared with other tenants."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from gossamer.errors import UnknownIdError, UnknownModelError, cut
from gossamer.jobs.store.scoped import Tenant
from gossamer.serving.core.tuned_name import is_tuned
from gossamer.serving.http.body import read_past
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.keys import TENANT_NAME
from gossamer.studio.body import StrictBody, read_object
from gossamer.studio.context import Studio, owner, scope_of
from gossamer.studio.routes.lists import as_list, page_ask
from gossamer.studio.view.files import permission_object

router = APIRouter()

PERMISSIONS_LIMIT = 10


class PermissionBody(StrictBody):
    """The body of POST /v1/fine_tuning/checkpoints/{model}/permissions."""

    project_ids: list[str] = Field(min_length=1, max_length=100)
    """The tenants that may use the model."""


@router.delete("/v1/models/{name:path}")
async def delete_model(http: Request, name: str) -> JSONResponse:
    """Delete a fine-tuned model; its owner and administrators may."""
    caller, studio = owner(http), Studio.of(http)
    await read_past(http)
    delete = partial(studio.models.delete, Context.of(http).engine, scope_of(caller), name)
    try:
        model = await studio.run(http, delete)
    except UnknownIdError:
        if is_tuned(name):
            raise UnknownModelError(f"unknown model '{cut(name)}'") from None
        raise ApiError(
            400,
            f"'{cut(name)}' is no fine-tuned model of yours; adapters are taken away with "
            "DELETE /v1/adapters/NAME",
            code="wrong_state",
            param="model",
        ) from None
    Context.of(http).catalogue.forget()
    return JSONResponse({"id": model.name, "object": "model", "deleted": True})


@router.get("/v1/fine_tuning/checkpoints/{model}/permissions")
async def list_permissions(http: Request, model: str) -> JSONResponse:
    """List the tenants beside the owner that may use a model."""
    caller, studio = owner(http), Studio.of(http)
    ask = page_ask(http, limit=PERMISSIONS_LIMIT, more=("project_id",))
    project = http.query_params.get("project_id")
    find = partial(studio.store.models.permissions, scope_of(caller), model, ask, project)
    page = await studio.run(http, find)
    return JSONResponse(as_list([permission_object(p) for p in page.data], has_more=page.has_more))


@router.post("/v1/fine_tuning/checkpoints/{model}/permissions")
async def permit(http: Request, model: str) -> JSONResponse:
    """Let other tenants use a model."""
    caller, studio = owner(http), Studio.of(http)
    body = PermissionBody.parse(await read_object(http))
    for project in body.project_ids:
        if not TENANT_NAME.fullmatch(project):
            message = f"'{cut(project)}' is no tenant's name"
            raise ApiError(400, message, code="invalid_value", param="project_ids")
    work = partial(studio.store.models.permit, scope_of(caller), model, body.project_ids)
    made = await studio.run(http, work)
    await studio.run(http, studio.grants.refresh)
    return JSONResponse(as_list([permission_object(each) for each in made], has_more=False))


@router.delete("/v1/fine_tuning/checkpoints/{model}/permissions/{permission_id}")
async def forbid(http: Request, model: str, permission_id: str) -> JSONResponse:
    """Take a permission back."""
    caller, studio = owner(http), Studio.of(http)
    await read_past(http)
    scope: Tenant = scope_of(caller)
    await studio.run(http, partial(studio.store.models.forbid, scope, model, permission_id))
    await studio.run(http, studio.grants.refresh)
    return JSONResponse({"id": permission_id, "object": "checkpoint.permission", "deleted": True})

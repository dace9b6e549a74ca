"""Keys and tenants for the page: shown, made and revoked through the server's own key file."""

from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from gossamer.errors import SettingError, UnknownNameError, cut
from gossamer.serving.http.auth import require_admin
from gossamer.serving.http.body import decode, read_body
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.key_file import change_keys, read_keys
from gossamer.serving.keys import KeyFileSettings, TenantSettings
from gossamer.studio.api.guests import require_caller

router = APIRouter(include_in_schema=False)

MAX_BODY = 64 * 1024


@router.get("/studio/api/keys")
async def list_keys(http: Request) -> JSONResponse:
    """List tenants with what they may use, and keys without their hashes."""
    content = await run_in_threadpool(read_keys, _key_file(http))
    keys = [key.model_dump(mode="json", exclude={"sha256"}) for key in content.keys]
    tenants = {name: each.model_dump(mode="json") for name, each in content.tenants.items()}
    return JSONResponse({"object": "list", "keys": keys, "tenants": tenants})


@router.post("/studio/api/keys")
async def make_key(http: Request) -> JSONResponse:
    """Make a key for a tenant and set what it may use; the answer alone holds the key."""
    path = _key_file(http)
    values = decode(await read_body(http, MAX_BODY))
    tenant = values.pop("tenant", None)
    if not isinstance(tenant, str):
        raise ApiError(
            400, "'tenant' must be a tenant's name", code="invalid_value", param="tenant"
        )
    try:
        key = await run_in_threadpool(_add, path, tenant, values)
    except SettingError as error:
        raise ApiError(400, str(error), code="invalid_value") from None
    return JSONResponse({"object": "studio.key", "tenant": tenant, "key": key})


@router.delete("/studio/api/keys/{key_id}")
async def revoke_key(http: Request, key_id: str) -> JSONResponse:
    """End a key; calls with it are refused from the next one on."""
    path = _key_file(http)
    revoke = partial(KeyFileSettings.without_key, key_id=key_id)
    try:
        await run_in_threadpool(change_keys, path, revoke)
    except UnknownNameError:
        raise ApiError(404, f"there is no key '{cut(key_id)}'", code="key_not_found") from None
    return JSONResponse({"object": "studio.key", "id": key_id, "deleted": True})


def _key_file(http: Request) -> Path:
    """Return the server's key file. Raises `ApiError` for those who may not, or if it has none."""
    require_caller(http)
    require_admin(http)
    path = Context.of(http).settings.keys
    if path is None:
        raise ApiError(
            400,
            "this server has no key file; make one with 'gossamer keys add NAME --admin' and serve "
            "with --keys keys.yaml",
            code="no_key_file",
        )
    return path


def _add(path: Path, tenant: str, values: dict[str, Any]) -> str:
    TenantSettings.parse(values, where="tenant")  # An unknown field is refused before the file.
    made: list[str] = []

    def change(content: KeyFileSettings) -> KeyFileSettings:
        changed, key = content.with_key(tenant, values)
        made.append(key)
        return changed

    change_keys(path, change)
    return made[-1]

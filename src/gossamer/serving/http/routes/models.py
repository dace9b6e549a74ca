"""GET /v1/models and GET /v1/models/{name}: the base model and the adapters."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from gossamer.errors import UnknownModelError, UnsupportedAdapterError, unknown_name_message
from gossamer.serving.http.access import allowed, caller_of
from gossamer.serving.http.context import Context
from gossamer.serving.interface import AdapterStatus

router = APIRouter()


@router.get("/v1/models")
async def list_models(http: Request) -> JSONResponse:
    """All names that the caller may use; adapters that cannot be served are under `refused`."""
    context = Context.of(http)
    found = await run_in_threadpool(context.engine.adapters)
    adapters = allowed(caller_of(http), found, context.engine)
    served = [_adapter(context, adapter) for adapter in adapters if adapter.state != "refused"]
    refused = [{"id": a.name, "problem": a.problem} for a in adapters if a.state == "refused"]
    return JSONResponse({"object": "list", "data": [_base(context), *served], "refused": refused})


@router.get("/v1/models/{name:path}")
async def show_model(http: Request, name: str) -> JSONResponse:
    """One of them. Raises `UnknownModelError` or, with the reason, `UnsupportedAdapterError`."""
    context = Context.of(http)
    if name == context.engine.model_name:
        return JSONResponse(_base(context))
    found = await run_in_threadpool(context.engine.adapters)
    adapters = {a.name: a for a in allowed(caller_of(http), found, context.engine)}
    if name not in adapters:
        known = [context.engine.model_name, *adapters]
        raise UnknownModelError(unknown_name_message("model", name, known))
    adapter = adapters[name]
    if adapter.state == "refused":
        raise UnsupportedAdapterError(f"adapter '{name}' is refused: {adapter.problem}")
    return JSONResponse(_adapter(context, adapter))


def _base(context: Context) -> dict[str, Any]:
    return {
        **_model(context.engine.model_name, context.started),
        "kind": "base",
        "state": "resident",
        "max_context": context.engine.max_context,
    }


def _adapter(context: Context, adapter: AdapterStatus) -> dict[str, Any]:
    return {
        **_model(adapter.name, adapter.created),
        "kind": adapter.kind,
        "state": adapter.state,
        "parent": context.engine.model_name,
        "rank": adapter.rank,
        "num_bytes": adapter.num_bytes,
        "digest": adapter.digest,
        "max_context": context.engine.max_context,
    }


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "gossamer"}

"""GET /v1/models and GET /v1/models/{name}: the base model and the adapters."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from gossamer.errors import UnknownModelError
from gossamer.serving.http.access import allowed, caller_of, check_model, unknown_model
from gossamer.serving.http.context import Context
from gossamer.serving.interface import AdapterStatus

router = APIRouter()


@router.get("/v1/models")
async def list_models(http: Request) -> JSONResponse:
    """All names that the caller may use; adapters that cannot be served are under `refused`."""
    context = Context.of(http)
    found = await run_in_threadpool(context.engine.adapters)
    adapters = allowed(caller_of(http), found)
    served = [_adapter(context, adapter) for adapter in adapters if adapter.state != "refused"]
    refused = [{"id": a.name, "problem": a.problem} for a in adapters if a.state == "refused"]
    return JSONResponse({"object": "list", "data": [_base(context), *served], "refused": refused})


@router.get("/v1/models/{name:path}")
async def show_model(http: Request, name: str) -> JSONResponse:
    """One of them, or a mixture (`a:0.7+b:0.3`): whatever a request may name. Answers with the
    error that a request would meet."""
    context = Context.of(http)
    if name == context.engine.model_name:
        return JSONResponse(_base(context))
    return JSONResponse(_adapter(context, await run_in_threadpool(_find, context, http, name)))


def _find(context: Context, http: Request, name: str) -> AdapterStatus:
    caller = caller_of(http)
    check_model(caller, name, context.engine)
    try:
        return context.engine.adapter(name)
    except UnknownModelError:
        # The engine's message may suggest names that are not the caller's to know.
        raise unknown_model(caller, name, context.engine) from None


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

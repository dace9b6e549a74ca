"""Routes to load, unload and pin adapters at run time; only administrators' keys may."""

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from gossamer.errors import cut
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.auth import caller_of, require_admin
from gossamer.serving.http.body import decode, read_body, read_past
from gossamer.serving.http.catalogue import AdapterPage, AdapterPageAsk, page_limit
from gossamer.serving.http.connection import run_unless_disconnected
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.json_text import json_bytes
from gossamer.serving.http.openai.unsupported_fields import shown


class AdapterBody(BaseModel):
    """The checks that these bodies have in common."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check a decoded JSON object; raise `ApiError` 400 that names the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = cut(".".join(map(str, first["loc"]))) or "body"
            given = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
            message = f"'{name}'{given}: {first['msg'].lower()}"
            raise ApiError(400, message, code="invalid_value", param=name) from None


class LoadLoraBody(AdapterBody):
    """The body of POST /v1/load_lora_adapter."""

    lora_name: str = Field(min_length=1)
    """Name to serve it under."""
    lora_path: str = Field(min_length=1)
    """The adapter's folder: absolute, or relative to a folder of `--adapters`; always below one."""
    load_inplace: bool = False
    """Replace another adapter of that name; its accepted requests end with it."""


class UnloadLoraBody(AdapterBody):
    """The body of POST /v1/unload_lora_adapter."""

    lora_name: str = Field(min_length=1)
    """Name to take away."""


class LoadBody(AdapterBody):
    """The body of POST /v1/adapters."""

    name: str = Field(min_length=1)
    """Name to serve it under."""
    path: str | None = Field(None, min_length=1)
    """The folder: absolute, or relative to a folder of `--adapters`; always below one of these.
    Unset: the one that lies there under its name, such as one that was unloaded."""
    replace: bool = False
    """Replace another adapter of that name; its accepted requests end with it."""
    pin: bool = False
    """Place it in the pool and keep it there."""


BODIES = (LoadBody, LoadLoraBody, UnloadLoraBody)


router = APIRouter()

T = TypeVar("T")
Body = TypeVar("Body", bound=AdapterBody)


@router.get("/v1/adapters")
async def list_adapters(http: Request) -> Response:
    """List adapters with state, kind, rank, bytes, digest, requests, hits, last use: at most
    `limit` (10,000 unless told), in the order of names from the first one after `after`."""
    require_admin(http)
    query = http.query_params
    ask = AdapterPageAsk("adapters", query.get("after", ""), page_limit(query.get("limit")))
    content = await Context.of(http).catalogue.page(ask, list, _written)
    return Response(content, media_type=JSONResponse.media_type)


@router.post("/v1/adapters")
async def load_adapter(http: Request) -> JSONResponse:
    """Read and check an adapter now and serve it under a name; answers when that is done."""
    require_admin(http)
    body = await _body(http, LoadBody)
    return await _load(http, body.name, body.path, replace=body.replace, pin=body.pin)


@router.delete("/v1/adapters/{name}")
async def unload_adapter(http: Request, name: str) -> JSONResponse:
    """Take an adapter away; answers when the requests that were accepted for it have ended."""
    require_admin(http)
    return await _unload(http, name)


@router.put("/v1/adapters/{name}/pin")
async def pin_adapter(http: Request, name: str) -> JSONResponse:
    """Place an adapter in the pool and keep it there; answers when it is."""
    require_admin(http)
    return await _pin(http, name, pinned=True)


@router.delete("/v1/adapters/{name}/pin")
async def unpin_adapter(http: Request, name: str) -> JSONResponse:
    """Let a pinned adapter be evicted again."""
    require_admin(http)
    return await _pin(http, name, pinned=False)


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(http: Request) -> JSONResponse:
    """Load an adapter as POST /v1/adapters does, with vLLM's names."""
    require_admin(http)
    body = await _body(http, LoadLoraBody)
    return await _load(http, body.lora_name, body.lora_path, replace=body.load_inplace, pin=False)


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(http: Request) -> JSONResponse:
    """Unload an adapter as DELETE /v1/adapters/{name} does, with vLLM's names."""
    require_admin(http)
    return await _unload(http, (await _body(http, UnloadLoraBody)).lora_name)


async def _load(
    http: Request, name: str, path: str | None, *, replace: bool, pin: bool
) -> JSONResponse:
    engine = Context.of(http).engine
    # These calls look at files, on a disk that may hang: not on the event loop.
    future = await run_in_threadpool(engine.load_adapter, name, path, replace=replace, pin=pin)
    return JSONResponse(_shown(await _result(http, future)))


async def _unload(http: Request, name: str) -> JSONResponse:
    future = await run_in_threadpool(Context.of(http).engine.unload_adapter, name)
    await _result(http, future)
    return JSONResponse({"id": name, "object": "adapter", "state": "removed"})


async def _pin(http: Request, name: str, *, pinned: bool) -> JSONResponse:
    await read_past(http)
    future = await run_in_threadpool(Context.of(http).engine.pin_adapter, name, pinned=pinned)
    return JSONResponse(_shown(await _result(http, future)))


async def _body(http: Request, schema: type[Body]) -> Body:
    context = Context.of(http)
    content = await read_body(http, context.settings.max_body_bytes)
    parse = partial(_parsed, schema, content)
    return await context.threads.run(caller_of(http).tenant, parse)


def _parsed(schema: type[Body], content: bytes) -> Body:
    return schema.parse(decode(content))


async def _result(http: Request, future: "Future[T]") -> T:
    # A client that goes away ends its wait, not the work.
    async def work() -> T:
        return await asyncio.shield(asyncio.wrap_future(future))

    try:
        return await run_unless_disconnected(http.receive, work())
    finally:
        Context.of(http).catalogue.forget()


def _written(page: AdapterPage) -> bytes:
    data = [_shown(adapter) for adapter in page.adapters]
    return json_bytes(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": page.has_more,
        }
    )


def _shown(adapter: AdapterStatus) -> dict[str, Any]:
    return {
        "id": adapter.name,
        "object": "adapter",
        "state": adapter.state,
        "kind": adapter.kind,
        "rank": adapter.rank,
        "num_bytes": adapter.num_bytes,
        "digest": adapter.digest,
        "pinned": adapter.pinned,
        "requests": adapter.requests,
        "hits": adapter.hits,
        "last_used": adapter.last_used,
        "problem": adapter.problem,
        "alias_of": adapter.alias_of,
    }

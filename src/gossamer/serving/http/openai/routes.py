"""The routes of OpenAI's API: chat, plain completions and the list of models."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from gossamer.errors import UnknownModelError, cut
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.auth import allowed, caller_of
from gossamer.serving.http.catalogue import AdapterPage, AdapterPageAsk, page_limit
from gossamer.serving.http.context import Context
from gossamer.serving.http.json_text import json_bytes
from gossamer.serving.http.openai.chat import calling
from gossamer.serving.http.openai.chat.reply import ChatReply
from gossamer.serving.http.openai.generate import Route, answer, find_model
from gossamer.serving.http.openai.request_schema import MAX_MODEL, ChatBody, CompletionBody
from gossamer.serving.http.openai.responses import CompletionReply

router = APIRouter()


@router.get("/v1/models")
async def list_models(http: Request) -> Response:
    """List names that the caller may use, at most `limit` (10,000 unless told), from the first one
    after the name `after`; adapters that cannot be served are under `refused`."""
    context, caller = Context.of(http), caller_of(http)
    query = http.query_params
    after, limit = query.get("after", ""), page_limit(query.get("limit"))
    base = context.engine.model_name
    # The base comes first; no adapter has its name.
    has_base = not after
    ask = AdapterPageAsk((caller, has_base), "" if after == base else after, limit - has_base)
    content = await context.catalogue.page(
        ask, partial(allowed, caller), partial(_written, context, has_base)
    )
    return Response(content, media_type=JSONResponse.media_type)


@router.get("/v1/models/{name:path}")
async def show_model(http: Request, name: str) -> JSONResponse:
    """One of them, or a mixture (`a:0.7+b:0.3`): whatever a request may name. Answers with the
    error that a request would meet."""
    context, caller = Context.of(http), caller_of(http)
    if name == context.engine.model_name:
        return JSONResponse(_base(context))
    if len(name) > MAX_MODEL:
        raise UnknownModelError(
            f"unknown model '{cut(name)}'; names have at most {MAX_MODEL} characters"
        )
    await find_model(context, caller, name)
    return JSONResponse(_adapter(context, await run_in_threadpool(context.engine.adapter, name)))


def _written(context: Context, has_base: bool, page: AdapterPage) -> bytes:
    found = page.adapters
    data = [_adapter(context, adapter) for adapter in found if adapter.state != "refused"]
    if has_base:
        data.insert(0, _base(context))
    return json_bytes(
        {
            "object": "list",
            "data": data,
            "refused": [
                {"id": a.name, "problem": a.problem} for a in found if a.state == "refused"
            ],
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": page.has_more,
        }
    )


def _base(context: Context) -> dict[str, Any]:
    return {
        **_model(context.engine.model_name, context.started),
        "kind": "base",
        "state": "resident",
        **_length(context),
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
        **_length(context),
    }


def _length(context: Context) -> dict[str, Any]:
    # vLLM calls it by the second name.
    most = context.engine.max_context
    return {"max_context": most, "max_model_len": most}


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "gossamer"}


@router.post("/v1/chat/completions")
async def chat_completions(http: Request) -> Response:
    """Answer a conversation."""
    context = Context.of(http)
    rules = partial(calling.rules, context.call_parser)
    return await answer(http, Route(ChatBody.parse, ChatReply, context.encoder.chat, rules))


@router.post("/v1/completions")
async def completions(http: Request) -> Response:
    """Continue one prompt or several."""
    encoder = Context.of(http).encoder
    return await answer(http, Route(CompletionBody.parse, CompletionReply, encoder.prompts))

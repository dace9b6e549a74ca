"""Makes the app: routes, errors, middleware."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from gossamer.errors import GossamerError, SettingError, cut
from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.http.anthropic import routes as anthropic
from gossamer.serving.http.anthropic.errors import error_response
from gossamer.serving.http.auth import ApiKeyCheck
from gossamer.serving.http.calls.record import CallSink
from gossamer.serving.http.calls.sinks import sinks_of
from gossamer.serving.http.catalogue import Catalogue
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError, ClientGoneError, to_api_error
from gossamer.serving.http.extension import Extension, Extensions
from gossamer.serving.http.fair_threads import FairThreadPool
from gossamer.serving.http.metrics.server import Metrics
from gossamer.serving.http.middleware import CLIENT_GONE, RequestContextMiddleware
from gossamer.serving.http.openai import routes as openai
from gossamer.serving.http.openai.intake import Intake
from gossamer.serving.http.openai.responses_api import routes as responses
from gossamer.serving.http.openai.responses_api.store import ResponseStore
from gossamer.serving.http.openai.sizes import SizeLimits
from gossamer.serving.http.openai.tokenize import RequestEncoder
from gossamer.serving.http.origins import OriginCheck
from gossamer.serving.http.routes import about, adapters, operation, tokens
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.key_file import KeyFile
from gossamer.serving.key_ring import KeyRing
from gossamer.serving.tokenization.tool_calls.families import CallParser

MAX_PARTS = 6
"""The most parts at the end of an unknown path that are looked at for what was meant."""


def create_app(
    engine: EngineInterface, settings: HttpSettings, extensions: Sequence[Extension] = ()
) -> FastAPI:
    """Make an app over a running engine, which the caller shuts down when the app has ended.

    Raises `SettingError` for a key file, or a parser of tool calls, that cannot be used.
    """
    file = KeyFile(settings.keys) if settings.keys is not None else None
    call_parser = _call_parser(engine, settings)
    context = Context(
        engine=engine,
        settings=settings,
        metrics=Metrics(engine),
        encoder=RequestEncoder(
            engine.tokenizer,
            engine.model_name,
            engine.max_context,
            special_tokens=engine.special_tokens,
            call_parser=call_parser,
        ),
        call_parser=call_parser,
        responses=ResponseStore(settings.max_responses_bytes),
        threads=FairThreadPool("gossamer-requests"),
        intake=Intake(engine, settings.max_bodies_bytes),
        catalogue=Catalogue(engine),
        limits=SizeLimits(engine.max_context, settings.max_choices),
        keys=KeyRing(settings.api_keys, file),
        started=int(time.time()),
    )

    sinks = sinks_of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for sink in sinks:
                # A collector that does not answer holds up the end, not the event loop.
                stack.push_async_callback(asyncio.to_thread, sink.close)
            stack.callback(context.catalogue.close)
            stack.callback(context.threads.close)
            for extension in extensions:
                if extension.lifespan is not None:
                    await stack.enter_async_context(extension.lifespan(app))
            yield

    # The interface is OpenAI's and documented there; FastAPI's own pages would fetch scripts from
    # elsewhere and know nothing of bodies that are read by hand.
    app = FastAPI(title="Gossamer", lifespan=lifespan, openapi_url=None)
    app.state.context = context
    rooms = (openai, responses, anthropic, adapters, operation, tokens, about)
    own = [each.router for each in rooms]
    app.state.routers = (*own, *(router for each in extensions for router in each.routers))
    for router in app.state.routers:
        _answer_head(router)
        app.include_router(router)
    for extension in extensions:
        for path, mounted in extension.mounts.items():
            app.mount(path, mounted)
        for name, value in extension.state.items():
            setattr(app.state, name, value)
    _map_errors(app)
    _surround(app, context, extensions, sinks)
    return app


def _call_parser(engine: EngineInterface, settings: HttpSettings) -> CallParser:
    try:
        return CallParser(engine.tokenizer, settings.tool_parser)
    except ValueError as error:
        raise SettingError(f"tool_parser={settings.tool_parser}: {error}") from None


def _answer_head(router: APIRouter) -> None:
    """Answer HEAD wherever GET is answered, as checks of whether a server is up use it."""
    for route in router.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")


def _surround(
    app: FastAPI, context: Context, extensions: Sequence[Extension], sinks: Sequence[CallSink]
) -> None:
    settings, together = context.settings, Extensions(extensions)
    # The last one added is the outermost.
    for each in reversed([each for extension in extensions for each in extension.middleware]):
        app.add_middleware(each.cls, *each.args, **each.kwargs)
    app.add_middleware(ApiKeyCheck, keys=context.keys, extensions=together)
    app.add_middleware(
        OriginCheck,
        hosts=(settings.host, *settings.allowed_hosts),
        origins=settings.cors_origins,
        needs_key=settings.needs_key,
    )
    if settings.cors_origins:
        # Outside the check of keys: a browser's preflight cannot carry one.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(RequestContextMiddleware, metrics=context.metrics, sinks=sinks)


def _map_errors(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _error)
    app.add_exception_handler(GossamerError, _error)
    app.add_exception_handler(ClientGoneError, _nobody_there)
    app.add_exception_handler(HTTPException, _routing_error)


async def _error(http: Request, error: Exception) -> Response:
    return to_api_error(error, http.state.request_id).response()


async def _nobody_there(http: Request, error: Exception) -> Response:
    # Never sent: the status is for the count of calls.
    return Response(status_code=CLIENT_GONE)


def _is_route(http: Request, path: str) -> bool:
    scope = {**http.scope, "path": path}
    return any(route.matches(scope)[0] is not Match.NONE for route in http.app.routes)


def _meant(http: Request) -> str | None:
    """The route that a client meant whose base URL has no `/v1`, or too much.

    It may have that twice, be the address of a route, or have a part that others put before.
    """
    if _is_route(http, http.url.path):
        return None
    parts = http.url.path.strip("/").split("/")
    first = max(0, len(parts) - MAX_PARTS)
    for start in range(first, len(parts)):
        rest = "/" + "/".join(parts[start:])
        for path in (rest, f"/v1{rest}"):
            if rest != "/" and _is_route(http, path):
                return path
    return None


async def _routing_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"no such route: {cut(http.method)} {cut(http.url.path)}"
        if meant := _meant(http):
            message += f"; did you mean {cut(meant)}?"
        return _in_shape(http, ApiError(404, message, code="unknown_route"))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{cut(http.url.path)} does not take {cut(http.method)}; use {allowed}"
        if http.method == "OPTIONS" and not Context.of(http).settings.cors_origins:
            message += ". For web pages of another origin, serve with --cors-origin and that origin"
        return _in_shape(http, ApiError(405, message, code="wrong_method", headers=error.headers))
    return _in_shape(http, ApiError(error.status_code, str(error.detail), headers=error.headers))


def _in_shape(http: Request, error: ApiError) -> Response:
    """Answer with `error` in the shape of the interface that the path belongs to."""
    is_anthropic = f"{http.url.path}/".startswith("/v1/messages/")
    return error_response(error) if is_anthropic else error.response()

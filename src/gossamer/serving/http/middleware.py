"""What surrounds every call: id, count, API key, an answer to surprises. Plain ASGI."""

import hmac
import uuid
from collections.abc import Iterable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gossamer.serving.http.errors import ApiError, to_api_error
from gossamer.serving.http.metrics import Metrics
from gossamer.serving.key_file import KeyFile
from gossamer.serving.keys import Caller, digest

OPEN_PATHS = frozenset({"/health"})
CLIENT_GONE = 499


class Surround:
    """Gives each call an id (header X-Request-Id), counts it, and answers 500 to surprises."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the call (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            answer = to_api_error(error, request_id)
            if status is None:
                await answer.response()(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", None)
            self._metrics.count(scope["method"], route, status or CLIENT_GONE)


class ApiKeyCheck:
    """Lets a call through only with a valid key as bearer token; `/health` is open.

    Valid are `keys`, which open everything, and those of `file`, which tell the tenant. Who calls
    is left in the state of the call.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str], file: KeyFile | None = None) -> None:
        self._app = app
        # Digests have one length, so that a comparison tells nothing about the keys'.
        self._digests = [digest(key.encode()) for key in keys]
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the call (ASGI)."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        caller = await self._caller(Headers(scope=scope).get("authorization", ""))
        if caller is not None:
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, receive, send)
            return
        refusal = ApiError(
            401,
            "missing or wrong API key; send the header 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal.response()(scope, receive, send)

    async def _caller(self, authorization: str) -> Caller | None:
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        # Headers come decoded as Latin-1.
        key = text.strip().encode("latin-1")
        given = digest(key)
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if any(matches):
            return Caller(is_admin=True)
        if self._file is None:
            return None
        # On a thread: the file is read again if it has changed, and its disk may be slow.
        return await run_in_threadpool(self._file.find, key)

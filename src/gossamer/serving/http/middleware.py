"""Surrounds every call: gives it an id, counts it, answers surprises. Plain ASGI."""

import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gossamer.serving.http.errors import to_api_error
from gossamer.serving.http.metrics.server import Metrics

CLIENT_GONE = 499


class RequestContextMiddleware:
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

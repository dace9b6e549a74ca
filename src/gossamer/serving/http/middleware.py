"""Surrounds every call: gives it an id, counts it, answers surprises. Plain ASGI."""

import uuid
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gossamer.serving.http.calls.record import CallRecord, CallSink
from gossamer.serving.http.errors import to_api_error
from gossamer.serving.http.metrics.server import Metrics

CLIENT_GONE = 499


class RequestContextMiddleware:
    """Gives each call an id (header X-Request-Id), counts it, and answers 500 to surprises."""

    def __init__(self, app: ASGIApp, metrics: Metrics, sinks: Sequence[CallSink] = ()) -> None:
        self._app = app
        self._metrics = metrics
        self._sinks = sinks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the call (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        record = CallRecord(request_id, scope["method"], _trace_headers(scope))
        scope.setdefault("state", {}).update(request_id=request_id, call=record)
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
            record.end(scope, route, status or CLIENT_GONE)
            for sink in self._sinks:
                sink.tell(record)


def _trace_headers(scope: Scope) -> dict[str, str]:
    """The headers by which a caller's trace goes on, as far as they can be meant."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"traceparent", b"tracestate") and len(value) <= 512
    }

"""A connection with deadlines: uvicorn's HTTP/1.1, which has none but for idle connections.

A client that sends nothing, little, or never reads holds memory and an open file without any work
of its own. So whatever the server waits for has a deadline in all, not one that starts again with
each byte: the head of a request, its body, the reading of an answer. Uploads are the exception,
since they may be as long as a file: there each piece has the time of a body.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.settings import HttpSettings
from gossamer.serving.http.transport.connections import Connections

READ_BYTES = 16 * 1024
"""The bytes that are read from a connection at a time. This bounds what the loop does in one go
with bytes of a client: a body in pieces of one byte costs some microseconds for each of them."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 4 * 1024 * 1024
"""What is still read, and thrown away, of a client that was refused before it had sent all: closing
at once would reset the connection, and the client would lose the answer that it has not read."""

HEALTH = "/health"


def guarded(
    settings: HttpSettings, connections: Connections, uploads: tuple[str, ...] = ()
) -> type[asyncio.Protocol]:
    """Make the protocol class of one server; `uploads` are starts of paths with long bodies."""
    members = {"settings": settings, "guard": connections, "uploads": uploads}
    return type("ServedConnection", (GuardedProtocol,), members)


class GuardedProtocol(H11Protocol):
    """One connection with deadlines, which are set again after each thing that happens to it."""

    settings: ClassVar[HttpSettings]
    guard: ClassVar[Connections]
    uploads: ClassVar[tuple[str, ...]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._has_begun = True  # a new connection is there in order to send a head
        self._incoming = _Deadline(self.loop)
        self._outgoing = _Deadline(self.loop)
        self._is_lost = False
        self._piece = object()
        """Stands for the last piece of a long body."""
        self._unread: int | None = None
        """The bytes that are still read and thrown away, once the client has been refused."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take in a client that has connected."""
        # An attribute of asyncio's own transports; others read as they like.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        seat = self.guard.enter(self)
        if seat == "full":
            transport.abort()
            return
        if seat == "reserve":
            self.app = _only_health(self.app)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Take in what the client has sent."""
        if self._unread is not None:
            self._unread -= len(data)
            if self._unread < 0:
                self.transport.close()
            return
        super().data_received(data)
        self._piece = object()
        if self.conn.their_state is h11.IDLE:
            self._has_begun = True
        self._look()

    def on_response_complete(self) -> None:
        """Go on when the answer is on its way; the client may send another request."""
        self._has_begun = False
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._has_begun = True  # sent ahead of our answer
        self._look()

    def pause_writing(self) -> None:
        """Stop writing: the client reads more slowly than we write."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """Write again: the client has caught up."""
        super().resume_writing()
        self._look()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection of a client that has been idle for long."""
        self.guard.cuts["idle"] += not self.transport.is_closing()
        super().timeout_keep_alive_handler()
        self._look()

    def shutdown(self) -> None:
        """End the connection with the server."""
        super().shutdown()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, which has ended from either side."""
        self._is_lost = True
        self._incoming.clear()
        self._outgoing.clear()
        self.guard.leave(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        # uvicorn calls this where it has caught h11's error, and passes on less than that says.
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            limit = f"{self.settings.max_header_kib} KiB; serve with more --max-header-kib"
            if b"\n" in self.conn.trailing_data[0].lstrip(b"\r\n"):
                message = f"the head of the request is larger than {limit}"
                self._refuse(431, message, "head_too_large")
            else:
                message = f"the address of the request is longer than {limit}"
                self._refuse(414, message, "address_too_long")
        else:
            self._refuse(400, "this is not valid HTTP/1.1", "invalid_http")
        self._look()

    def give_way(self) -> None:
        """Close at once, for another connection."""
        self._cut_off()
        self.transport.abort()

    def _look(self) -> None:
        """Set the deadlines for what the client has to do now."""
        if self._is_lost:
            return
        seconds = self.settings
        if self.flow.write_paused or self.transport.is_closing():
            self._outgoing.set("write", seconds.write_timeout, self._late_to_read)
        else:
            self._outgoing.clear()
        state = self.conn.their_state
        if self._unread is not None:
            self._incoming.set("rest", LINGER_SECONDS, self.transport.close)
            self.guard.wait_for(self)
            return
        if state is h11.SEND_BODY:
            what = self._piece if self._is_upload() else self.cycle
            self._incoming.set(what, seconds.body_timeout, self._late_with_body)
        elif state is h11.IDLE and self._has_begun:
            self._incoming.set("head", seconds.header_timeout, self._late_with_head)
        else:
            self._incoming.clear()
        if state in (h11.SEND_BODY, h11.IDLE) and not self.transport.is_closing():
            self.guard.wait_for(self)
        else:
            self.guard.work_for(self)

    def _is_upload(self) -> bool:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return str(cycle.scope["path"]).startswith(self.uploads)

    def _late_with_head(self) -> None:
        self.guard.cuts["head"] += 1
        limit = self.settings.header_timeout
        message = f"the head of the request was not complete after {limit:g} s (--header-timeout)"
        self._refuse(408, message, "timeout")
        self._look()

    def _late_with_body(self) -> None:
        self.guard.cuts["body"] += 1
        limit = self.settings.body_timeout
        message = f"the body was not complete after {limit:g} s; serve with a longer --body-timeout"
        self._refuse(408, message, "timeout")
        self._look()

    def _late_to_read(self) -> None:
        self.guard.cuts["write"] += 1
        self._cut_off()
        self.transport.abort()

    def _cut_off(self) -> None:
        """Tell the app, if it is at work, that the client has gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer in the app's stead and close soon; close at once if an answer has been begun."""
        self._cut_off()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        response = ApiError(status, message, code=code).response()
        headers = [*response.raw_headers, (b"connection", b"close")]
        reason = STATUS_PHRASES.get(status, b"")
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._unread = LINGER_BYTES
        self.flow.resume_reading()


class _Deadline:
    """A timer that is set again only for something else than it runs for already."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._what: object = None

    def set(self, what: object, seconds: float, late: Callable[[], None]) -> None:
        """Call `late` in `seconds`, unless the time for `what` runs already."""
        if self._what is what:
            return
        self.clear()
        self._what = what
        self._timer = self._loop.call_later(seconds, late)

    def clear(self) -> None:
        """Stop the timer: nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._what = None


def _only_health(app: ASGIApp) -> ASGIApp:
    """Limit `app` to /health, for a connection beyond the limit."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == HEALTH:
            await app(scope, receive, send)
            return
        refusal = ApiError(
            503,
            "the server has as many connections as it may; try again later (--max-connections)",
            code="too_many_connections",
            headers={"Retry-After": "1", "Connection": "close"},
        )
        await refusal.response()(scope, receive, send)

    return answer

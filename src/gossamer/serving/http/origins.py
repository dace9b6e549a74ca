"""Checks that no foreign web page has caused a call that shows no key.

A browser sends requests of any page to any address, this machine's included. It tells where a
page comes from (`Origin`, `Sec-Fetch-Site`), and under which name the server was reached (`Host`):
a page whose own name was made to point here afterwards ("DNS rebinding") is known by that name
only. Where a call shows a key none of this matters, since no page of somebody else's has one; a
cookie of this server is sent along by the browser itself, whichever page asks.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/health"})


class OriginCheck:
    """Refuses calls under a name that is not this server's, and those of other origins' pages.

    Names are those of this machine, `localhost` with whatever ends in it, every numerical address
    (it cannot be made to point elsewhere), and `hosts`; '*' allows all. Where a key is needed the
    name does not matter, and a call that shows a key is judged by that alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str],
        origins: Iterable[str],
        *,
        needs_key: bool = False,
    ) -> None:
        self._app = app
        self._needs_key = needs_key
        own = socket.gethostname().lower()
        self._hosts = {own, f"{own.partition('.')[0]}.local", *(host.lower() for host in hosts)}
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the call (ASGI)."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            refusal = self._judge(scope["method"], Headers(scope=scope))
            if refusal is not None:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _judge(self, method: str, headers: Headers) -> ApiError | None:
        host = headers.get("host", "")
        if self._needs_key and "authorization" in headers:
            return None
        if host and not self._needs_key and not self._is_own(host):
            return ApiError(
                421,
                f"this server is not called '{cut(host)}'; if it is, serve with "
                "--allowed-host and that name, or with keys",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if method in SAFE_METHODS or self._may_call(origin, headers, host):
            return None
        return ApiError(
            403,
            f"web pages of {cut(origin or 'other sites')} may not use this server; serve with "
            "--cors-origin and that origin to allow them",
            code="cross_site",
        )

    def _is_own(self, host: str) -> bool:
        name = _name_in(host)
        if "*" in self._hosts or name in self._hosts or name == "localhost":
            return True
        return name.endswith(".localhost") or _is_address(name)

    def _may_call(self, origin: str | None, headers: Headers, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        if origin is not None:
            # Same origin: a page that this server itself, or a proxy under its name, has sent.
            return origin.partition("://")[2].lower() == host.lower()
        # Sent by browsers only; "none" is what a person typed.
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _name_in(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""What other rooms add to the server: routes, logins, names that a tenant may use.

The server knows none of them by name: who starts it hands them to `create_app`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from gossamer.serving.keys import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One addition to the server. All parts are optional."""

    routers: Sequence[APIRouter] = ()
    """Routes, which are matched after the server's own."""
    mounts: Mapping[str, ASGIApp] = field(default_factory=dict)
    """Apps by the path below which each answers everything, such as files of a page."""
    state: Mapping[str, object] = field(default_factory=dict)
    """Objects that its routes find as attributes of `app.state`."""
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None
    """What it runs beside the server: entered before the first call, left after the last."""
    middleware: Sequence[Middleware] = ()
    """What surrounds all routes, behind the checks of origin and key; the first is the outermost.
    A middleware takes the app as its argument `app`."""
    open_paths: frozenset[str] = frozenset()
    """Paths that need no key; one that ends with `/` opens all below it."""
    upload_paths: tuple[str, ...] = ()
    """Starts of paths whose bodies may be long: each piece of one is waited for, not the whole."""
    session: Callable[[HTTPConnection], Awaitable[Caller | None]] | None = None
    """Who calls without a key, told by a cookie; None for a call that has no valid one."""
    granted: Callable[[str], frozenset[str]] | None = None
    """The names that others let a tenant use. Asked at each call: it must not wait."""


class Extensions:
    """All additions to one server, asked as one."""

    def __init__(self, extensions: Sequence[Extension] = ()) -> None:
        self._all = tuple(extensions)
        self._open = frozenset[str]().union(*(each.open_paths for each in self._all))
        self._open_folders = tuple(path for path in self._open if path.endswith("/"))

    def is_open(self, path: str) -> bool:
        """Tell whether `path` needs no key."""
        return path in self._open or path.startswith(self._open_folders)

    @property
    def have_sessions(self) -> bool:
        """Tell whether a call may come with a cookie instead of a key."""
        return any(each.session is not None for each in self._all)

    async def caller(self, call: HTTPConnection) -> Caller | None:
        """Return who calls by the first session that is valid; None: there is none."""
        for each in self._all:
            if each.session is not None and (found := await each.session(call)) is not None:
                return found
        return None

    def with_grants(self, caller: Caller) -> Caller:
        """Return `caller` with the names that others let its tenant use."""
        granted = [each.granted(caller.tenant) for each in self._all if each.granted is not None]
        names = frozenset[str]().union(*granted)
        return replace(caller, granted=names) if names else caller

"""The caller of a request and what it may name. Set by the key check; without keys, anything."""

from collections.abc import Iterable
from typing import cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gossamer.errors import UnknownModelError, cut, unknown_name_message
from gossamer.serving.core.adapter import AnyAdapter, adapters_in
from gossamer.serving.core.stats import AdapterStatus
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.http.extension import Extensions
from gossamer.serving.key_ring import KeyRing
from gossamer.serving.keys import Caller

ANYONE = Caller(may_train=True)
"""Who calls a server without keys."""

STRANGER = Caller(tenant="", adapters=())
"""Who calls a path that is open on a server with keys."""


def caller_of(http: Request) -> Caller:
    """Return the caller of a request."""
    return cast(Caller, getattr(http.state, "caller", ANYONE))


def allowed(caller: Caller, adapters: Iterable[AdapterStatus]) -> list[AdapterStatus]:
    """Pick those of `adapters` that the caller may see."""
    return [adapter for adapter in adapters if caller.may_use(adapter.name, adapter.alias_of)]


def may_name(caller: Caller, model: str) -> bool:
    """Whether the caller may use `model`, which is not the base model's name.

    What a tenant may not use does not exist for it, or names of others could be guessed. Raises
    `RequestError` for a mixture that makes no sense.
    """
    return caller.adapters is None or all(map(caller.may_use, adapters_in(model)))


def may_use_found(caller: Caller, model: str, found: AnyAdapter) -> bool:
    """Whether the caller may use what `model`, which it may name, has been found to stand for."""
    names = adapters_in(model)
    return caller.adapters is None or all(
        caller.may_use(name, None if part.name == name else part.name)
        for name, part in zip(names, found.parts, strict=True)
    )


def unknown_model(
    caller: Caller, model: str, base: str, adapters: Iterable[AdapterStatus]
) -> UnknownModelError:
    """The error for an unknown model, with suggestions among what the caller may see; for a
    mixture, it names the unknown part."""
    # One that is leaving is listed still, and cannot be asked any more.
    named = (adapter for adapter in adapters if adapter.state != "draining")
    names = {adapter.name for adapter in allowed(caller, named)}
    missing = next((part for part in adapters_in(model) if part not in names), model)
    if missing == base:
        return UnknownModelError(
            f"model '{cut(model)}': '{missing}' is the base model, to which adapters are added; "
            "leave it out"
        )
    return UnknownModelError(unknown_name_message("model", missing, [base, *names]))


def require_admin(http: Request) -> None:
    """Raise `ApiError` 403 unless the caller's key is an administrator's."""
    if not caller_of(http).is_admin:
        settings = Context.of(http).settings
        start = "" if settings.keys is not None else " and start the server with --keys keys.yaml"
        raise ApiError(
            403,
            f"{cut(http.url.path)} needs an administrator's key; make one with "
            f"'gossamer keys add NAME --admin'{start}",
            code="admin_key_required",
        )


OPEN_PATHS = frozenset({"/", "/health", "/ping"})
"""Paths that tell nothing of models and tenants to whom no key was asked for."""


class ApiKeyCheck:
    """Lets a call through only with a valid key as bearer token, or a session of an extension;
    `OPEN_PATHS` and what extensions open need neither.

    Who calls is left in the state of the call. On a server without keys everyone is let through.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, extensions: Extensions) -> None:
        self._app = app
        self._keys = keys
        self._extensions = extensions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the call (ASGI)."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        caller = await self._caller(HTTPConnection(scope))
        if caller is not None:
            caller = self._extensions.with_grants(caller)
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

    async def _caller(self, call: HTTPConnection) -> Caller | None:
        shown = call.headers.get("authorization", "")
        if not shown and (key := call.headers.get("x-api-key")):
            # As Anthropic's clients send it.
            shown = f"Bearer {key}"
        if shown and self._keys.needs_key:
            return await self._find(shown)
        if (found := await self._extensions.caller(call)) is not None:
            return found
        if not self._keys.needs_key:
            return ANYONE
        return STRANGER if self._extensions.is_open(call.url.path) else None

    async def _find(self, authorization: str) -> Caller | None:
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        # Headers come decoded as Latin-1. On a thread: the file is read again if it has changed,
        # and its disk may be slow.
        return await run_in_threadpool(self._keys.find, text.strip().encode("latin-1"))

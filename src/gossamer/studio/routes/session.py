"""Logging in to the page and out of it."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from gossamer.serving.http.body import read_past
from gossamer.serving.http.context import Context
from gossamer.studio.api.guests import require_caller
from gossamer.studio.body import StrictBody, read_object
from gossamer.studio.context import Studio
from gossamer.studio.sessions import SESSION_SECONDS, cookie_name, cookie_of

router = APIRouter()


class LoginBody(StrictBody):
    """The body of POST /studio/session."""

    token: str | None = Field(None, max_length=200)
    """The one-time token of the link that `gossamer studio` prints."""
    key: str | None = Field(None, max_length=200)
    """An API key, on a server with keys."""


@router.post("/studio/session")
async def log_in(http: Request) -> JSONResponse:
    """Trade the one-time token, or an API key, for a session's cookie."""
    studio, context = Studio.of(http), Context.of(http)
    body = LoginBody.parse(await read_object(http))
    address = http.client.host if http.client else ""
    secret = body.token or body.key or ""
    trade = partial(studio.sessions.log_in, secret, context.keys, address)
    cookie, caller = await studio.run(http, trade)
    answer = JSONResponse(
        _shown(caller.tenant, is_admin=caller.is_admin, may_train=caller.may_train)
    )
    answer.set_cookie(
        cookie_name(http),
        cookie,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=_is_https(http),
    )
    return answer


@router.get("/studio/session")
async def show_session(http: Request) -> JSONResponse:
    """Tell who is there, and what they may."""
    caller = require_caller(http)
    return JSONResponse(_shown(caller.tenant, is_admin=caller.is_admin, may_train=caller.may_train))


@router.delete("/studio/session")
async def log_out(http: Request) -> JSONResponse:
    """End the session of this browser."""
    await read_past(http)
    studio = Studio.of(http)
    if (cookie := cookie_of(http)) is not None:
        await studio.run(http, partial(studio.sessions.log_out, cookie))
    answer = JSONResponse({"object": "studio.session", "deleted": True})
    answer.delete_cookie(cookie_name(http), httponly=True, samesite="strict")
    return answer


def _is_https(http: Request) -> bool:
    # Behind a proxy that ends TLS the browser tells, by the origin of its page.
    return http.headers.get("origin", "").startswith("https://") or http.url.scheme == "https"


def _shown(tenant: str, *, is_admin: bool, may_train: bool) -> dict[str, object]:
    return {
        "object": "studio.session",
        "tenant": tenant,
        "admin": is_admin,
        "train": may_train or is_admin,
    }

"""The body of a request as a JSON object, read with limits."""

import re
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError, ClientGoneError

DRAIN_FACTOR = 4
"""A body that is too large is still read and thrown away up to this multiple of the limit: a client
that is busy sending would not see the answer."""

MAX_VALUES = 1_000_000
"""The most values in a body."""

MAX_CONTAINERS = 100_000
"""The most lists, objects and fields of objects in a body. A list of numbers is decoded quickly; a
million small lists take most of a second, in one call that lets no other thread run."""

MAX_IGNORED = 2**20
"""The most bytes of a body that a route without one takes in."""

LOOK_EVERY = 20_000
"""The number of texts in a body after which its parts are counted again against the limits."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


async def read_body(
    http: Request, max_bytes: int, hold: Callable[[int], None] = lambda count: None
) -> bytes:
    """Read the bytes of a body that is to be JSON; `hold` is told of each part as it comes.

    Raises `ApiError` 415 (not said to be JSON), 413 (too large), `ClientGoneError`, or what `hold`
    raises.
    """
    _check_content_type(http.headers)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in http.stream():
            size += len(chunk)
            if size <= max_bytes:
                hold(len(chunk))
                chunks.append(chunk)
                continue
            chunks.clear()
            if size > DRAIN_FACTOR * max_bytes:
                break
    except ClientDisconnect:
        raise ClientGoneError from None
    if size > max_bytes:
        raise ApiError(
            413,
            f"the body is larger than {max_bytes / 2**20:.3g} MiB; send less at a time, or serve "
            "with more --max-body-mib",
            code="body_too_large",
        )
    return b"".join(chunks)


async def read_past(http: Request) -> None:
    """Take in whatever body a call has that needs none; clients send `application/json` with an
    empty one. Raises `ApiError` 413 for more than a little, or `ClientGoneError`."""
    size = 0
    try:
        async for chunk in http.stream():
            size += len(chunk)
            if size > MAX_IGNORED:
                raise ApiError(413, "this route takes no body", code="body_too_large")
    except ClientDisconnect:
        raise ClientGoneError from None


def decode(body: bytes) -> dict[str, Any]:
    """Decode the object in `body`. Takes time that grows with its size.

    Raises `ApiError` 400 for what is not JSON, is no object, or has too many parts.
    """
    _check_parts(body)
    try:
        # Refuses NaN, broken UTF-8, lone surrogates and bottomless nesting.
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = f"the body is not valid JSON: {error}"
        raise ApiError(400, message, code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return value


def _check_content_type(headers: Headers) -> None:
    """Raise `ApiError` 415 for what is not said to be plain JSON, or is compressed.

    A web page may send anybody a form, plain text, or bytes of no type without asking first, but
    not JSON. Programs may leave the type out: what no browser has sent is read as JSON.
    """
    given = headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )
    if not is_json and ("content-type" in headers or _is_of_browser(headers)):
        what = f"the body is sent as '{cut(given)}'" if given else "the body has no content type"
        raise ApiError(
            415,
            f"{what}; add the header 'Content-Type: application/json' (with curl: "
            "-H 'Content-Type: application/json')",
            code="unsupported_media_type",
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            415,
            f"bodies in Content-Encoding '{cut(encoding)}' are not read; send it uncompressed",
            code="unsupported_media_type",
        )


def _is_of_browser(headers: Headers) -> bool:
    """Whether a browser may have sent this, on whosever page.

    Browsers of today send `Origin` with each POST to another site, and pages cannot leave it out.
    Older ones left it out with some (Firefox before 70, with typeless bytes); pages can leave out
    `Referer`, but change the name of the browser only where they have asked first.
    """
    if any(name.startswith("sec-fetch-") for name in headers):
        return True
    if "origin" in headers or "referer" in headers:
        return True
    return headers.get("user-agent", "").strip().lower().startswith(("mozilla/", "opera/"))


def _check_parts(body: bytes) -> None:
    """Raise `ApiError` 400 for more parts than can be decoded quickly."""
    if _is_small(body):
        return
    # Texts may hold any number of these signs; what is outside of texts counts. It is gathered text
    # by text, so that other threads can run in between.
    position, outside = 0, bytearray()
    for number, match in enumerate(_STRING.finditer(body)):
        outside += body[position : match.start()]
        position = match.end()
        if number % LOOK_EVERY == 0 and not _is_small(outside):
            break
    outside += body[position:]
    if not _is_small(outside):
        raise ApiError(
            400,
            f"the body has more than {MAX_VALUES} values, or more than {MAX_CONTAINERS} lists, "
            "objects and fields; send less at a time",
            code="body_too_large",
        )


def _is_small(body: bytes | bytearray) -> bool:
    count = body.count
    return count(b",") < MAX_VALUES and count(b"[") + count(b"{") + count(b":") < MAX_CONTAINERS

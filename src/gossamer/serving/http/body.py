"""The body of a request as a JSON object, read with a limit."""

from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from gossamer.errors import cut
from gossamer.serving.http.errors import ApiError, ClientGoneError

DRAIN_FACTOR = 4
"""Of a body that is too large, so many times the limit is still taken in and thrown away: a client
that is busy sending would not see the answer."""


async def read_object(http: Request, max_bytes: int) -> dict[str, Any]:
    """Decode the body.

    Raises `ApiError` 415 (not said to be JSON), 413 (too large) or 400 (not JSON, or not an
    object), `ClientGoneError`.
    """
    check_content_type(http.headers)
    value = _decode(await _read(http, max_bytes))
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return value


def check_content_type(headers: Headers) -> None:
    """Raise `ApiError` 415 for what is not said to be plain JSON.

    A web page may send anybody a form or plain text without being asked, but not JSON.
    """
    given = headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
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


async def _read(http: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in http.stream():
            size += len(chunk)
            if size <= max_bytes:
                chunks.append(chunk)
            elif size > DRAIN_FACTOR * max_bytes:
                break
    except ClientDisconnect:
        raise ClientGoneError from None
    if size > max_bytes:
        limit = f"{max_bytes / 2**20:.3g} MiB"
        raise ApiError(413, f"the body is larger than {limit}", code="body_too_large")
    return b"".join(chunks)


def _decode(body: bytes) -> Any:
    try:
        # Refuses NaN, broken UTF-8, lone surrogates and bottomless nesting.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = f"the body is not valid JSON: {error}"
        raise ApiError(400, message, code="invalid_json") from None

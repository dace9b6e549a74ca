"""Writes errors in Anthropic's shape."""

from typing import Any

from fastapi.responses import JSONResponse

from gossamer.serving.http.errors import ApiError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError) -> dict[str, Any]:
    """Build `{"type": "error", "error": {...}}`, as Anthropic's clients expect it."""
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _TYPES.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def error_response(error: ApiError) -> JSONResponse:
    """Build the whole answer."""
    return JSONResponse(error_body(error), status_code=error.status, headers=error.headers)

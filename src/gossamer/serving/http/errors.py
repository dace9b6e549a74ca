"""Errors in OpenAI's shape, and the one place that maps our error classes to HTTP statuses."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from gossamer.errors import (
    MAX_CUT,
    AdapterError,
    AdapterNotFoundError,
    AdapterReadError,
    AdapterReplacedError,
    BaseMismatchError,
    BaseModelError,
    CapacityError,
    DataError,
    EngineStoppedError,
    GossamerError,
    JobError,
    MissingExtraError,
    OverloadedError,
    QuotaError,
    RequestError,
    StorageError,
    TrainingError,
    UnknownIdError,
    UnknownModelError,
    UnsupportedAdapterError,
    UsageError,
    one_line,
)

log = logging.getLogger("gossamer.http")

STATUS: tuple[tuple[type[GossamerError], int, str], ...] = (
    (UnknownModelError, 404, "model_not_found"),
    (AdapterNotFoundError, 404, "model_not_found"),
    (AdapterReadError, 503, "adapter_unavailable"),
    (UnsupportedAdapterError, 422, "adapter_unsupported"),
    (BaseMismatchError, 422, "adapter_base_mismatch"),
    (AdapterError, 422, "adapter_unusable"),
    (RequestError, 400, "invalid_value"),
    # Both carry a code of their own.
    (UnknownIdError, 404, "not_found"),
    (JobError, 400, "invalid_value"),
    (CapacityError, 400, "capacity_exceeded"),
    (QuotaError, 429, "quota_exceeded"),
    (OverloadedError, 429, "overloaded"),
    # OpenAI's clients send a request again that meets a conflict.
    (AdapterReplacedError, 409, "adapter_replaced"),
    (EngineStoppedError, 503, "engine_stopped"),
    (MissingExtraError, 501, "not_installed"),
    (UsageError, 400, "invalid_value"),
    (DataError, 400, "invalid_file"),
    (BaseModelError, 400, "base_model_unusable"),
    (TrainingError, 400, "training_impossible"),
    (StorageError, 507, "storage_failed"),
    (GossamerError, 500, "internal_error"),
)
"""The status and code of each class of errors; the first class that matches counts."""

FINAL = frozenset({500, 501, 507})
"""Statuses of the server's own failures that would be met again. OpenAI's clients repeat whatever
ends so, unless it says that they should not."""

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error: status, message, and OpenAI's `type`, `param` and `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = one_line(message)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = None if param is None else one_line(param, MAX_CUT)
        again = {"x-should-retry": "false"} if status in FINAL else {}
        self.headers = {**again, **(headers or {})}

    def body(self) -> dict[str, Any]:
        """Build `{"error": {...}}`, as OpenAI's clients expect it."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Build the whole answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


class ClientGoneError(Exception):
    """The client has closed its connection and reads no answer."""


def to_api_error(error: Exception, request_id: str) -> ApiError:
    """Build the answer for any exception; an unexpected one is logged under `request_id`."""
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, GossamerError):
        log.error("request %s failed", request_id, exc_info=error)
        return ApiError(
            500,
            f"internal error; the server's log tells more under {request_id}",
            code="internal_error",
        )
    status, code = next((s, c) for kind, s, c in STATUS if isinstance(error, kind))
    code = error.code if isinstance(error, JobError) else code
    if status >= 500:
        log.error("request %s failed: %s", request_id, error)
    return ApiError(status, str(error), code=code, param=_param(error), headers=_headers(error))


def _param(error: GossamerError) -> str | None:
    if isinstance(error, RequestError | JobError):
        return error.param
    is_about_model = isinstance(error, UnknownModelError | AdapterError)
    return "model" if is_about_model else None


def _headers(error: GossamerError) -> dict[str, str]:
    if isinstance(error, OverloadedError | AdapterReadError):
        # The header takes whole seconds; 0 would invite a client to hammer.
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {}

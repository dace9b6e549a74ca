"""The error of a job that would fail again, as its owner is told of it."""

from typing import Any

from gossamer.errors import (
    BaseModelError,
    DataError,
    GossamerError,
    TrainingError,
    UsageError,
    one_line,
)

_CODES = {"tune": "training_failed", "compare": "comparison_failed"}


def told(error: GossamerError, kind: str) -> dict[str, Any]:
    """Tell what the work of a job of that kind has said."""
    code, param = _CODES.get(kind, f"{kind}_failed"), None
    if isinstance(error, DataError):
        code, param = "invalid_file", "training_file"
    elif isinstance(error, BaseModelError):
        code, param = "base_model_unusable", "model"
    elif isinstance(error, UsageError):
        code = "invalid_value"
    elif isinstance(error, TrainingError) and "not enough memory" in str(error):
        code = "out_of_memory"
    return {"code": code, "message": str(error), "param": param}


def unexpected(error: Exception) -> dict[str, Any]:
    """Tell of an error that is a fault of the program."""
    first = next(iter(str(error).splitlines()), "")
    message = f"{type(error).__name__}: {first[:200]}".rstrip(": ")
    return {"code": "internal_error", "message": one_line(message), "param": None}

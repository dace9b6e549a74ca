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
from gossamer.jobs.queue.needs import memory_words
from gossamer.jobs.store.records import JobRecord
from gossamer.jobs.worker.surroundings import most_held

_CODES = {"tune": "training_failed", "compare": "comparison_failed"}


def told(error: GossamerError, job: JobRecord) -> dict[str, Any]:
    """Tell what the work of a job has said."""
    code, param = _CODES.get(job.kind, f"{job.kind}_failed"), None
    message = str(error)
    if isinstance(error, DataError):
        code, param = "invalid_file", "training_file"
    elif isinstance(error, BaseModelError):
        code, param = "base_model_unusable", "model"
    elif isinstance(error, UsageError):
        code = "invalid_value"
    elif isinstance(error, TrainingError) and "not enough memory" in str(error):
        code = "out_of_memory"
        message += memory_words(job.estimate, most_held())
    return {"code": code, "message": message, "param": param}


def unexpected(error: Exception) -> dict[str, Any]:
    """Tell of an error that is a fault of the program."""
    first = next(iter(str(error).splitlines()), "")
    message = f"{type(error).__name__}: {first[:200]}".rstrip(": ")
    return {"code": "internal_error", "message": one_line(message), "param": None}

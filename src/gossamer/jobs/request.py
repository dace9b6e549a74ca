"""What a request for a job means: OpenAI's body, with our `adapter` and `training`, as settings.

Pure: no file, no table, no model. What is refused names the field, as OpenAI's clients show it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from gossamer.errors import (
    JobError,
    RequestError,
    SettingError,
    UnknownNameError,
    cut,
    unknown_name_message,
)
from gossamer.jobs.ids import check_suffix, is_id
from gossamer.methods import default_rate, parse_settings
from gossamer.settings import Settings
from gossamer.training.settings import RunSettings

TRAIN_DATA, EVAL_DATA, RUN = "data/train", "data/eval", "run"
"""Where a worker has the rows (the ending follows), and writes the run, below its job's folder."""

_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
NOT_THE_CALLERS = {
    "model": "give it as `model` of the job",
    "data": "give a training_file",
    "eval_data": "give a validation_file",
    "output": "the server chooses it",
    "method": "give it as `adapter.method`",
    "method_settings": "give them in `adapter`",
    "device": "the server chooses it",
    "processes": "a job is one process",
    "seed": "give it as `seed` of the job",
    "start_from": "the server reads no folder that a request names",
    "sparse_compute": "the server reads no file that a request names",
    "report_to": "the server reports to no tracker",
}
"""Settings that a job's own fields say, or that would reach beyond the job (paths of the server's
machine, and trackers that are told of it), and what to say of each."""
_EVALUATIONS = 5
"""Evaluations in a run, if the request does not say how often."""
_SAMPLES = 5
"""Held-out prompts that are answered at each of them, if the request does not say how many."""

R = TypeVar("R", bound=Settings)
Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class JobRequest(Settings):
    """The body of a request for a job."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    """Name of the base model."""

    training_file: str
    """Identifier of the file with the rows to learn."""

    validation_file: str | None = None
    """Identifier of the file with rows to evaluate on."""

    suffix: str | None = None
    """Part of the tuned model's name, up to 64 characters."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the run; unset: one is drawn."""

    method: dict[str, Any] | None = None
    """Objective: `{"type": "supervised", "supervised": {"hyperparameters": {...}}}`."""

    hyperparameters: dict[str, Any] | None = None
    """Hyperparameters in OpenAI's former place; give them there or in `method`."""

    integrations: list[Any] | None = None
    """Refused unless empty: the server reports to no tracker."""

    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    """Up to 16 pairs of texts to find jobs by."""

    adapter: dict[str, Any] = Field(default={})
    """`method` and that method's settings, by their names of `gossamer tune --help-method`."""

    training: dict[str, Any] = Field(default={})
    """Settings of the run and its data, by their names of `gossamer tune --help`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedJob:
    """A request with nothing left open; plain values that JSON can hold."""

    hyperparameters: dict[str, Any]
    """The numbers that OpenAI's three hyperparameters have come to."""
    adapter: dict[str, Any]
    """The method and all its settings."""
    training: dict[str, Any]
    """All settings of the run that a request may give."""
    run: dict[str, Any]
    """The settings of the run, with paths below the job's folder."""

    def as_record(self) -> dict[str, Any]:
        """Return it as one mapping."""
        return {
            "hyperparameters": self.hyperparameters,
            "adapter": self.adapter,
            "training": self.training,
            "run": self.run,
        }


def parse_request(body: Mapping[str, Any]) -> JobRequest:
    """Read a body; raises `RequestError` or `JobError` with the field's name."""
    request = parse_body(JobRequest, body)
    for param in ("training_file", "validation_file"):
        file_id = getattr(request, param)
        if file_id is not None and not is_id(file_id, "file-"):
            raise RequestError(f"'{cut(file_id)}' is not the identifier of a file", param=param)
    if request.suffix:
        check_suffix(request.suffix)
    if request.integrations:
        raise JobError(
            "integrations are not supported: the server reports to no tracker; leave them out",
            code="unsupported_parameter",
            param="integrations",
        )
    if request.model.startswith("ft:"):
        raise JobError(
            f"'{cut(request.model)}' is a tuned model; a job begins from a base model",
            code="unsupported_parameter",
            param="model",
        )
    return request


def parse_body(cls: type[R], body: Mapping[str, Any]) -> R:
    """Read a body as settings of that class; raises `RequestError` with the field's name."""
    try:
        return cls.model_validate(dict(body))
    except ValidationError as error:
        place = error.errors()[0]["loc"]
    try:
        return cls.parse(body, where="request")
    except SettingError as told:
        raise RequestError(str(told), param=str(place[0]) if place else None) from None


def request_digest(body: Mapping[str, Any]) -> str:
    """The SHA-256 by which a repeated body is known, whatever the order of its fields."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def resolve(
    request: JobRequest,
    *,
    base: str,
    width: Callable[[], int],
    seed: int,
    endings: tuple[str, str] = (".jsonl", ".jsonl"),
    rows: int | None = None,
) -> ResolvedJob:
    """Make settings of a request, or say what is wrong with it.

    `base` is what training calls the base model, a folder or a name; `width` finds its hidden size,
    and is asked only for a learning_rate_multiplier. `endings` are those of the two data files,
    which tell their format. `rows` is the number of training rows, where it is known: then held-out
    rows are scored five times a run. Raises `RequestError` or `JobError`.
    """
    wanted = _hyperparameters(request)
    method, settings = _method(request.adapter)
    values = _training_values(request, wanted, method, width)
    run = _run_settings(
        {
            **values,
            "model": base,
            "data": TRAIN_DATA + endings[0],
            "eval_data": EVAL_DATA + endings[1] if request.validation_file else None,
            "output": RUN,
            "method": method,
            "method_settings": settings,
            "seed": seed,
        }
    )
    run = _with_evaluations(run, values, rows)
    shown = run.model_dump(mode="json")
    return ResolvedJob(
        hyperparameters={
            "n_epochs": run.epochs,
            "batch_size": run.batch_size,
            "learning_rate_multiplier": wanted.get("learning_rate_multiplier", 1.0),
        },
        adapter={"method": method, **settings},
        training={k: v for k, v in shown.items() if k not in NOT_THE_CALLERS},
        run=shown,
    )


def _hyperparameters(request: JobRequest) -> dict[str, Any]:
    """The hyperparameters that are numbers, from either place; "auto" is as good as none."""
    given: dict[str, Any] = {}
    place = "hyperparameters"
    if request.hyperparameters is not None:
        given = request.hyperparameters
    if request.method is not None:
        place, given = _of_method(request.method, given)
    for name, value in given.items():
        _check_hyperparameter(name, value, place)
    return {name: value for name, value in given.items() if value != "auto"}


def _of_method(method: dict[str, Any], former: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = method.get("type", "supervised")
    if kind != "supervised":
        raise JobError(
            f"method.type '{cut(str(kind))}' is not supported, only 'supervised'; to learn from "
            'preferences, give "training": {"objective": "dpo"} and rows with chosen and rejected',
            code="unsupported_method",
            param="method.type",
        )
    for name in method:
        if name not in ("type", "supervised"):
            message = unknown_name_message("field", name, ("type", "supervised"))
            raise RequestError(f"method: {message}", param=f"method.{cut(name)}")
    inner = {} if method.get("supervised") is None else method["supervised"]
    given = inner.get("hyperparameters") or {} if isinstance(inner, dict) else None
    if not isinstance(given, dict):
        raise RequestError("method.supervised must be an object", param="method.supervised")
    if given and former:
        raise RequestError(
            "give hyperparameters in method.supervised or at the top, not in both",
            param="hyperparameters",
        )
    return "method.supervised.hyperparameters", given or former


def _check_hyperparameter(name: str, value: Any, place: str) -> None:
    param = f"{place}.{cut(name)}"
    if name not in _HYPERPARAMETERS:
        message = unknown_name_message("hyperparameter", name, _HYPERPARAMETERS)
        raise RequestError(f"{message} More can be set in `adapter` and `training`", param=param)
    if value == "auto":
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise RequestError(
            f'{name} = {cut(repr(value))} must be a number above 0, or "auto"', param=param
        )
    if name == "batch_size" and value != int(value):
        raise RequestError(f"batch_size = {value} must be a whole number", param=param)


def _method(adapter: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the method and all its settings."""
    given = dict(adapter)
    method = given.pop("method", RunSettings.model_fields["method"].default)
    try:
        settings = parse_settings(str(method), given)
    except UnknownNameError as error:
        raise RequestError(str(error), param="adapter.method") from None
    except SettingError as error:
        raise RequestError(f"adapter: {error}", param="adapter") from None
    return str(method), settings.model_dump(mode="json")


def _training_values(
    request: JobRequest, wanted: dict[str, Any], method: str, width: Callable[[], int]
) -> dict[str, Any]:
    """The settings of the run that the request gives."""
    values = dict(request.training)
    for name in values:
        if name in NOT_THE_CALLERS:
            raise RequestError(
                f"training.{name} cannot be given: {NOT_THE_CALLERS[name]}",
                param=f"training.{name}",
            )
    pairs = {"n_epochs": "epochs", "batch_size": "batch_size"}
    pairs["learning_rate_multiplier"] = "learning_rate"
    for name, value in wanted.items():
        setting = pairs[name]
        if values.get(setting) is not None:
            raise RequestError(
                f"give either {name} or training.{setting}, not both", param=f"training.{setting}"
            )
        if name == "learning_rate_multiplier":
            value = float(f"{value * default_rate(method).at(width()):.6g}")
        values[setting] = int(value) if name == "batch_size" else value
    return values


def _run_settings(values: dict[str, Any]) -> RunSettings:
    try:
        return RunSettings.parse(values, where="training")
    except SettingError as error:
        raise RequestError(str(error), param="training") from None


def _with_evaluations(run: RunSettings, given: Mapping[str, Any], rows: int | None) -> RunSettings:
    """The settings with evaluations and samples of what is held out, unless the request says."""
    held_out = run.eval_data is not None or run.eval_split
    if held_out and "samples" not in given:
        run = run.model_copy(update={"samples": _SAMPLES})
    if not held_out or "eval_every" in given or rows is None:
        return run
    steps = run.max_steps
    if steps is None:
        steps = math.ceil(rows / (run.batch_size * run.gradient_accumulation) * run.epochs)
    return run.model_copy(update={"eval_every": max(1, steps // _EVALUATIONS)})

"""A request for a comparison: `gossamer compare` as one job."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from gossamer.errors import (
    GossamerError,
    JobError,
    RequestError,
    UnknownNameError,
    cut,
    unknown_name_message,
)
from gossamer.jobs.ids import check_suffix, is_id, model_name
from gossamer.jobs.queue.needs import comparison_needs
from gossamer.jobs.request import NOT_THE_CALLERS, Metadata, parse_body
from gossamer.methods import parse_settings
from gossamer.settings import Settings
from gossamer.training.comparison.entries import RUN_SETTINGS, Entry
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.evaluation.settings import EvaluationSettings

ALL_ROWS, TRAIN_ROWS, HELD_OUT_ROWS = "data/all", "data/train", "data/eval"
"""Where a worker has the rows (the ending follows), below its job's folder."""
OUTPUT = "run/comparison"
"""The folder of the comparison, below its job's folder."""
HELD_OUT_SHARE = 0.1
"""What is held out of the rows if a request says nothing."""

_MAX_METHODS, _MAX_SEEDS = 32, 10
_SAMPLES = 3
"""Held-out prompts that every model answers, if a request says nothing."""
_LABEL_CHARACTERS = 40


class ComparisonRequest(Settings):
    """The body of a request for a comparison."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    """Name of the base model."""

    training_file: str
    """Identifier of the file with the rows to learn."""

    validation_file: str | None = None
    """Identifier of the file with the rows to score on; unset: `held_out` of the training rows."""

    held_out: Annotated[float, Field(gt=0)] | None = None
    """Rows to hold out of the training file, as a share below 1 or a number; unset without a
    `validation_file`: a tenth."""

    suffix: str | None = None
    """Part of the tuned models' names, before the method's, up to 40 characters."""

    methods: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MAX_METHODS)]
    """The methods: each an object with `method`, that method's settings, and if wanted
    learning_rate, scheduler, warmup, weight_decay or max_grad_norm."""

    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1, max_length=_MAX_SEEDS)
    ] = Field(default=[0])
    """Seeds; each method is trained once with each of them."""

    budget: list[str] = Field(default=[])
    """What each method may spend, as `--budget` of `gossamer compare` takes it."""

    training: dict[str, Any] = Field(default={})
    """Settings of all runs alike, by their names of `gossamer tune --help`."""

    evaluation: dict[str, Any] = Field(default={})
    """How the results are scored, by the names of `gossamer compare --help`."""

    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    """Up to 16 pairs of texts to find jobs by."""


def parse_comparison(body: Mapping[str, Any]) -> ComparisonRequest:
    """Read a body; raises `RequestError` with the field's name."""
    request = parse_body(ComparisonRequest, body)
    for param in ("training_file", "validation_file"):
        file_id = getattr(request, param)
        if file_id is not None and not is_id(file_id, "file-"):
            raise RequestError(f"'{cut(file_id)}' is not the identifier of a file", param=param)
    if request.validation_file is not None and request.held_out is not None:
        raise RequestError("give either validation_file or held_out, not both", param="held_out")
    if request.suffix:
        check_suffix(request.suffix)
        if len(request.suffix) > _LABEL_CHARACTERS:
            raise RequestError(
                f"suffix '{cut(request.suffix)}' has more than {_LABEL_CHARACTERS} characters, "
                "and each method's name follows it",
                param="suffix",
            )
    return request


def resolve_comparison(
    request: ComparisonRequest, *, base: str, tenant: str, name: str, endings: tuple[str, str]
) -> dict[str, Any]:
    """What a request means, as plain values that JSON can hold.

    `base` is what training calls the base model, `name` what clients do; `endings` are those of
    the two files of rows. The answer has `settings` of the comparison, `held_out` (None: there is a
    file of its own), the `entries` with their labels and settings, and the `names` of what they
    make, by their folders. Raises `RequestError`.
    """
    split = None
    if request.validation_file is None:
        split = HELD_OUT_SHARE if request.held_out is None else request.held_out
        if split >= 1 and split != int(split):
            raise RequestError(
                f"held_out = {split} must be a share below 1 or a whole number", param="held_out"
            )
    for key in request.training:
        if key in NOT_THE_CALLERS:
            raise RequestError(
                f"training.{cut(key)} cannot be given: {NOT_THE_CALLERS[key]}",
                param=f"training.{cut(key)}",
            )
    # Rows that are held out here are written as lines of JSON.
    train, held_out = (".jsonl", ".jsonl") if split is not None else endings
    values = {
        "model": base,
        "data": TRAIN_ROWS + train,
        "eval": HELD_OUT_ROWS + held_out,
        "methods": [_written(each) for each in request.methods],
        "budget": request.budget,
        "seeds": request.seeds,
        "run": {"samples": _SAMPLES, **request.training},
        "output": OUTPUT,
        **_evaluation(request.evaluation),
    }
    try:
        settings = CompareSettings.parse(values, where="comparison")
        settings.check_values()
        entries = settings.entries()
    except UnknownNameError as error:
        raise RequestError(_in_words(error), param="methods") from None
    except GossamerError as error:
        raise RequestError(_in_words(error)) from None
    return {
        "settings": settings.model_dump(mode="json"),
        "held_out": split,
        "all_rows": ALL_ROWS + endings[0],
        "entries": [
            {
                "label": entry.label,
                "name": short_name(entry, entries),
                "method": entry.method,
                "settings": entry.settings,
                "folder": entry.folder,
            }
            for entry in entries
        ],
        "names": _names(request, entries, tenant, name),
    }


def rows_of(resolved: Mapping[str, Any]) -> str:
    """The name of the file of rows that an estimate reads: of rows that the worker holds some out
    of, all tell as much."""
    found = (
        resolved["all_rows"] if resolved["held_out"] is not None else resolved["settings"]["data"]
    )
    return str(found)


def estimate_comparison(
    resolved: Mapping[str, Any], ask: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """What the runs of a comparison take one after the other, each once for each seed.

    `ask` tells what one run with the given settings takes, and raises `JobError` for one that
    cannot be. `entries` has the answers by label, `problems` the reasons of those that cannot be:
    the comparison goes on without them. Raises the first such error if no run can be.
    """
    settings = CompareSettings.parse(resolved["settings"], where="job")
    entries: dict[str, dict[str, Any]] = {}
    errors: dict[str, JobError] = {}
    for entry in settings.entries():
        run = settings.run_settings(entry, seed=settings.seeds[0], output="run")
        values = run.model_copy(update={"data": rows_of(resolved)}).model_dump(mode="json")
        try:
            entries[entry.label] = ask(values)
        except JobError as error:
            errors[entry.label] = error
    if not entries:
        raise next(iter(errors.values()))
    problems = {label: str(error) for label, error in errors.items()}
    needs = comparison_needs(list(entries.values()), len(settings.seeds))
    return needs | {"entries": entries, "problems": problems}


def short_name(entry: Entry, entries: Sequence[Entry]) -> str:
    """The method of an entry, or all that tells it from another one of that method."""
    is_only = sum(other.method == entry.method for other in entries) == 1
    return entry.method if is_only else entry.folder


def run_folder(entry: str, seed: int) -> str:
    """The name of the folder of a run, by that of its entry."""
    return f"{entry}-seed{seed}"


def _evaluation(given: Mapping[str, Any]) -> dict[str, Any]:
    known = EvaluationSettings.model_fields
    for key in given:
        if key not in known:
            message = unknown_name_message("setting", key, known)
            raise RequestError(f"evaluation: {message}", param=f"evaluation.{cut(key)}")
    return dict(given)


def _written(method: Mapping[str, Any]) -> str:
    """An entry as `--methods` takes it."""
    name, rest = str(method.get("method", "")), {k: v for k, v in method.items() if k != "method"}
    if not re.fullmatch(r"\w+", name):
        raise RequestError(
            f"'{cut(name)}' is no method's name; each of `methods` is an object such as "
            '{"method": "lora", "rank": 8}',
            param="methods",
        )
    for key, value in rest.items():
        if key == "learning_rate" and isinstance(value, list):
            raise RequestError("give each rate an entry of its own", param="methods")
    _check(name, {k: v for k, v in rest.items() if k not in RUN_SETTINGS})
    pairs = [f"{key}={_value(value)}" for key, value in rest.items()]
    return f"{name}:{','.join(pairs)}" if pairs else name


def _check(name: str, settings: Mapping[str, Any]) -> None:
    try:
        parse_settings(name, settings)
    except GossamerError as error:
        raise RequestError(f"methods: {error}", param="methods") from None


def _value(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return value
    return json.dumps(value)


def _names(
    request: ComparisonRequest, entries: Sequence[Entry], tenant: str, base: str
) -> dict[str, str]:
    """The name of what each run makes, by the run's folder."""
    names = {}
    for entry in entries:
        for seed in request.seeds:
            label = short_name(entry, entries)
            label += f"-seed{seed}" if len(request.seeds) > 1 else ""
            suffix = f"{request.suffix}-{label}" if request.suffix else label
            names[run_folder(entry.folder, seed)] = model_name(base, tenant, suffix[:64])
    return names


def _in_words(error: GossamerError) -> str:
    """The command's words for what a body calls by other names."""
    text = str(error)
    for option, field in (
        ("--methods", "methods"),
        ("--budget", "budget"),
        ("--set ", "training."),
    ):
        text = text.replace(option, field)
    return text

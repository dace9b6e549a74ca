"""Decides all that a comparison can before anything heavy: data, entries, sizes."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from gossamer.basemodel.find import resolve
from gossamer.basemodel.load import load_tokenizer
from gossamer.errors import BaseModelError, DataError, GossamerError, SettingError
from gossamer.methods import Method, MethodContext
from gossamer.training.comparison.entries import Entry
from gossamer.training.comparison.settings import CompareSettings
from gossamer.training.data import load_data
from gossamer.training.evaluation import load_eval_set
from gossamer.training.loop.device import choose_device
from gossamer.training.memory_estimate import model_without_weights
from gossamer.training.outputs.run_record import recorded_facts
from gossamer.training.plan import make_plan
from gossamer.training.prepare import prepare
from gossamer.training.settings import RunSettings

_FIGURES = 3
"""The significant figures of a size that is a share."""


def fit_size(method: Method[Any], entry: Entry, context: MethodContext, budget: int) -> Any:
    """Return all settings of `method`, its size such that at most `budget` parameters learn.

    Counted on the model's structure, without weights. Raises `SettingError` if the method has no
    size, if the entry fixes it, or if even the smallest is above the budget.
    """
    name = method.size_setting
    if name is None:
        raise SettingError(
            f"--budget params: method '{entry.method}' has no setting from which its number "
            "of trained parameters follows; leave it out, or compare by steps or minutes"
        )
    if name in entry.given:
        raise SettingError(
            f"--budget params: '{entry.label}' fixes {name}, which the budget is to choose; leave "
            "one of them out"
        )
    values = entry.settings

    @cache
    def count(size: float) -> float:
        try:
            return _count(type(method).from_values({**values, name: size}), context)
        except SettingError:
            # A share too small for a single block, or a rank above the model's width.
            if size == 1:
                raise
            return 0 if size < 1 else math.inf

    size = _largest(count, budget, whole=isinstance(values[name], int))
    if size is None:
        raise SettingError(
            f"--budget params={budget}: the smallest '{entry.label}' trains more than that"
        )
    return {**values, name: size}


def _count(candidate: Method[Any], context: MethodContext) -> int:
    model = model_without_weights(candidate, context)
    with torch.device("meta"):
        return candidate.trainable_parameters(model, context)


def _largest(count: Callable[[float], float], budget: int, *, whole: bool) -> float | None:
    """The largest size with `count(size) <= budget`; counts grow with the size."""
    return _largest_whole(count, budget) if whole else _largest_share(count, budget)


def _largest_whole(count: Callable[[float], float], budget: int) -> int | None:
    if count(1) > budget:
        return None
    low, high = 1, 2
    while count(high) <= budget:
        # A matrix cannot have more than its full rank: at some point nothing grows any more.
        if count(high) == count(low) or high > 2**20:
            return low
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return low


def _largest_share(count: Callable[[float], float], budget: int) -> float | None:
    if count(1.0) <= budget:
        return 1.0
    low, high = 0.0, 1.0
    while float(f"{low:.{_FIGURES}g}") < float(f"{high:.{_FIGURES}g}") * (1 - 10.0**-_FIGURES):
        middle = (low + high) / 2
        if middle < 1e-9:
            return None
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    rounded = float(f"{low:.{_FIGURES + 2}g}")
    size = rounded if count(rounded) <= budget else low
    return size if count(size) > 0 else None


def make_comparison_plan(settings: CompareSettings) -> dict[str, Any]:
    """Plan what the comparison will do: `facts` of model and data, and `entries` by label.

    An entry is `{"method_settings": {...}}`, or `{"refused": reason}` if this base model or this
    machine does not allow it. Raises a `GossamerError` for what concerns all entries.
    """
    base = scoring_settings(settings)
    tokenizer = load_tokenizer(resolve(settings.model))
    choose_device(base.device)
    held_out = load_eval_set(settings.eval, settings, base, tokenizer)
    rows = len(load_data(base, tokenizer, seed=base.seed).train)
    from gossamer.basemodel.files import fingerprint

    recorded = recorded_facts(
        base.model_copy(update={"eval_data": settings.eval}),
        base_fingerprint=fingerprint(resolve(settings.model)),
    )
    return {
        "facts": {
            **{key: recorded[key] for key in ("base_fingerprint", "data_sha256", "versions")},
            "train_rows": rows,
            "steps": make_plan(base, rows).steps,
            "rows_per_step": base.batch_size * base.gradient_accumulation,
            "eval_rows": len(held_out.rows),
            "score": held_out.score,
        },
        "entries": {entry.label: _checked(entry, settings) for entry in settings.entries()},
    }


def scoring_settings(settings: CompareSettings) -> RunSettings:
    """The settings that all runs share: how rows are read, device and compute type."""
    plain = Entry(label="all runs", method="full", given={}, run={})
    return settings.run_settings(plain, seed=settings.seeds[0], output="")


def _checked(entry: Entry, settings: CompareSettings) -> dict[str, Any]:
    run = settings.run_settings(entry, seed=settings.seeds[0], output="")
    try:
        prepared = prepare(run)
    except (BaseModelError, DataError):
        raise
    except GossamerError as error:
        return {"refused": str(error)}
    budget = settings.limits().params
    if budget is None:
        return {"method_settings": run.method_settings}
    return {"method_settings": fit_size(prepared.method, entry, prepared.context, budget)}

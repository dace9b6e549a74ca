"""The largest size of a method whose trained parameters fit a budget."""

import math
from collections.abc import Callable
from typing import Any

import torch

from gossamer.errors import SettingError
from gossamer.methods import Method, MethodContext
from gossamer.training.comparison.entries import Entry
from gossamer.training.estimate import model_without_weights

_FIGURES = 3
"""Significant figures of a size that is a share."""


def fit_size(method: Method[Any], entry: Entry, context: MethodContext, budget: int) -> Any:
    """All settings of `method`, its size such that at most `budget` parameters learn.

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

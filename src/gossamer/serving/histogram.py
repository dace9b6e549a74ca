"""Counts by size, for /metrics. No library of metrics here: the engine must run without one."""

from bisect import bisect_left
from dataclasses import dataclass

LOAD_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds to read an adapter."""


@dataclass(frozen=True, slots=True)
class HistogramStats:
    """A snapshot."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """Values up to each bound and above the one before; then those above all."""
    total: float
    """Sum of the values."""


class Histogram:
    """Values sorted into buckets. One thread observes; any may take a snapshot."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def stats(self) -> HistogramStats:
        """A snapshot."""
        return HistogramStats(self._bounds, tuple(self._counts), self._total)

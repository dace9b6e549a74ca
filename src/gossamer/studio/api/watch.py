"""What the page's Server view has beside the engine's figures: waits of late, disk, training."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from gossamer.machine import usable_cpus

WINDOW_SECONDS = 300.0
"""Over which the time to a first token is told."""
NOTE_SECONDS = 10.0
"""Between two looks at the server's histogram."""
LOOK_SECONDS = 2.0
"""Between two looks at what workers have computed."""

Buckets = tuple[tuple[float, ...], tuple[int, ...]]
"""Bounds in seconds, the last one infinite, and how many values each has with those below it."""


class RecentWaits:
    """Quantiles of a histogram over the last minutes: of what it has more than it had then."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[int, ...]]] = deque()

    def note(self, now: float, buckets: Buckets) -> None:
        """Remember what the histogram has at the time `now`."""
        self._seen.append((now, buckets[1]))
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()

    def figures(self, buckets: Buckets) -> dict[str, float | int | None]:
        """Count the values since the first that is remembered, with their p50 and p95, which are
        None where there is no value."""
        bounds, counts = buckets
        before = self._seen[0][1] if self._seen else (0,) * len(counts)
        new = [count - old for count, old in zip(counts, before, strict=True)]
        return {
            "count": new[-1],
            "p50": _quantile(0.5, bounds, new),
            "p95": _quantile(0.95, bounds, new),
        }


def _quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value below which a share of all lies, within its bucket as if they were spread evenly;
    above the last bound that bound is all that is known."""
    if not counts[-1]:
        return None
    wanted = share * counts[-1]
    index = next(place for place, count in enumerate(counts) if count >= wanted)
    low, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0)
    if bounds[index] == float("inf"):
        return low
    inside = (wanted - below) / (counts[index] - below)
    return round(low + inside * (bounds[index] - low), 4)


class TrainingShare:
    """The part of the usable processors that the workers of jobs have had of late."""

    def __init__(self) -> None:
        self._looked = 0.0
        self._computed: dict[int, float] = {}
        self._share: float | None = None

    def of(self, pids: Sequence[int], now: float) -> float | None:
        """Return the share, from 0 to 1; None before two looks."""
        passed = now - self._looked
        if passed < LOOK_SECONDS:
            return self._share
        computed = {pid: seconds for pid in pids if (seconds := _cpu_seconds(pid)) is not None}
        known = [pid for pid in computed if pid in self._computed]
        spent = sum(max(0.0, computed[pid] - self._computed[pid]) for pid in known)
        is_first = self._looked == 0.0
        self._looked, self._computed = now, computed
        self._share = None if is_first else round(min(1.0, spent / passed / usable_cpus()), 2)
        return self._share


def _cpu_seconds(pid: int) -> float | None:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


class ServerWatch:
    """Looks at the machine for the Server view. From any thread."""

    def __init__(
        self, folder: Path | None = None, workers: Callable[[], Sequence[int]] = lambda: ()
    ) -> None:
        """`folder` is that of jobs and files, `workers` gives the numbers of the processes here
        that train; without them there is nothing to tell of disk and training."""
        self._folder = folder
        self._workers = workers
        self.waits = RecentWaits()
        self._training = TrainingShare()

    def figures(self, buckets: Buckets) -> dict[str, Any]:
        """Show the figures of now; `buckets` is the histogram of times to a first token."""
        found: dict[str, Any] = {"first_token": self.waits.figures(buckets)}
        if self._folder is not None:
            disk = shutil.disk_usage(self._folder)
            pids = self._workers()
            found |= {
                # In steps of 16 MiB: a page need not be told of every file.
                "disk": {"free": disk.free >> 24 << 24, "total": disk.total},
                "training": {
                    "workers": len(pids),
                    "cpu_share": self._training.of(pids, time.monotonic()),
                    "cpus": usable_cpus(),
                },
            }
        return found

"""Says why a running job does not get on: other work has the processors, or it was stopped.

Training takes the processors that nothing else wants (`worker.surroundings`), so that on a busy
machine a worker may get hardly any. It is not slow then, it waits; and the system counts how long.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gossamer.jobs.supervise.room import cpu_seconds, descendants

WINDOW_SECONDS = 10.0
"""The time over which a worker is judged."""
_SMALL_SHARE = 0.1
"""A worker that gets less than this part of one processor, and wants more, starves."""
_LONG_WAIT = 0.5
"""A worker wants more that has waited for a processor for this part of the time."""
_NANOSECONDS = 1e9

STOPPED = "it waits while requests run"


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    had: float
    """Seconds of processor time up to then."""
    waited: float | None
    """Seconds for which it was ready and had no processor; None: the system does not tell."""


class Progressing:
    """Judges one worker, again and again."""

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._reason: str | None = None

    def reason(self, pid: int | None, *, is_paused: bool) -> str | None:
        """Why the worker of that number does not get on; None: it does, or nothing is known."""
        if pid is None:
            return None
        if is_paused:
            self._last = None
            return STOPPED
        now = time.monotonic()
        if self._last is None:
            self._last, self._reason = _look(pid, now), None
        elif now - self._last.at >= WINDOW_SECONDS:
            look = _look(pid, now)
            self._reason, self._last = starving(self._last, look), look
        return self._reason


def starving(before: _Look, now: _Look) -> str | None:
    """Say what share of a processor a worker got between two looks, if it wanted more; else None.

    Where the system does not tell who waits, one that gets hardly anything counts as waiting.
    """
    span = now.at - before.at
    share = max(0.0, now.had - before.had) / span
    if share >= _SMALL_SHARE:
        return None
    waited = span
    if before.waited is not None and now.waited is not None:
        waited = now.waited - before.waited
    if waited < _LONG_WAIT * span:
        return None
    return f"other work has the processors; this job gets {share:.0%} of one"


def _look(pid: int, at: float) -> _Look:
    return _Look(at, cpu_seconds(pid), waited_seconds(pid))


def waited_seconds(pid: int) -> float | None:
    """Seconds for which threads of a process, and of those that it has started, were ready to run
    and had no processor; None where the system does not count them."""
    total, is_counted = 0.0, False
    for each in (pid, *descendants(pid)):
        for thread in _threads(each):
            # A thread may end at any time.
            with suppress(OSError, IndexError, ValueError):
                total += float((thread / "schedstat").read_text().split()[1]) / _NANOSECONDS
                is_counted = True
    return total if is_counted else None


def _threads(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []

"""Ends what Ray leaves behind where a signal ends the run while Ray starts.

Its own handler of signals then kills the processes that it knows. What those have just started
themselves, such as the agents beside a raylet, may not have learnt yet to watch their parent.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

_PR_SET_CHILD_SUBREAPER = 36
SECONDS = 5.0
"""So long processes may take to end by themselves; then they are killed."""


@contextmanager
def adopting_orphans() -> Iterator[Callable[[], None]]:
    """Take over, on Linux, processes whose parent ends meanwhile.

    Yields a function that ends all that were started since, by this process or by those.
    """
    before = set(psutil.Process().children(recursive=True))

    def end() -> None:
        started = set(psutil.Process().children(recursive=True)) - before
        _, alive = psutil.wait_procs(started, timeout=SECONDS)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=SECONDS)

    _adopt(True)
    try:
        yield end
    finally:
        # Later orphans are none of ours: nothing here would take note of their end.
        _adopt(False)


def _adopt(wanted: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)

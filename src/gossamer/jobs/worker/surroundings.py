"""What training leaves to everything else on the machine."""

import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

from gossamer.jobs.queue.needs import GIB, memory_reserve
from gossamer.jobs.settings import JobsSettings
from gossamer.machine import total_memory, usable_cpus, usable_memory

_KILL_FIRST = 800
"""How soon the kernel kills the process when memory runs out, of -1000 to 1000: before servers."""


def num_threads() -> int:
    """The threads that a worker computes with, as its environment says."""
    return int(os.environ.get("OMP_NUM_THREADS") or usable_cpus())


def machine_name() -> str:
    """Name what speeds are measured on: the kind of processor, and how many there are."""
    kind = platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                kind = line.partition(":")[2].strip()
                break
    return f"{kind[:200]} x {usable_cpus()}"


def bound_memory() -> None:
    """Let this process hold no more than is free now beside what everything else needs.

    For processes that read what somebody else wrote and load no model: of those that do, the
    mapped weights would count. What is free changes, so it is called before each piece of work.
    """
    most = max(GIB, usable_memory() - memory_reserve(total_memory()))
    # Some systems know no such limit; the kernel then ends this process before others.
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def most_held() -> int:
    """The most memory that this process, or the largest that it has started, has held, in bytes."""
    largest = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    # Linux counts in KiB, macOS in bytes.
    return int(largest if sys.platform == "darwin" else largest * 1024)


def give_way(settings: JobsSettings) -> None:
    """Let other processes have processors and memory first; threads that come later inherit it."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_KILL_FIRST))
    if settings.jobs_share == "full":
        return
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)

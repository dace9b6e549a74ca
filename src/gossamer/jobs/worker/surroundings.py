"""What training leaves to everything else on the machine."""

import os
import platform
from contextlib import suppress
from pathlib import Path

from gossamer.jobs.settings import JobsSettings
from gossamer.machine import usable_cpus

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

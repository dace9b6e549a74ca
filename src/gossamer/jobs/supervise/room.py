"""What memory and disk the machine has now, and whether it has run out of memory."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gossamer.jobs.queue.needs import MIB, MachineRoom
from gossamer.jobs.settings import JobsSettings
from gossamer.machine import total_memory, usable_memory

_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))


def measure(settings: JobsSettings) -> MachineRoom:
    """Look at memory and at the disk of the data folder."""
    disk = shutil.disk_usage(settings.folder.root)
    return MachineRoom(
        memory_total=total_memory(),
        memory_free=usable_memory(),
        disk_total=disk.total,
        disk_free=disk.free,
        disk_floor=settings.disk_floor_mib * MIB,
        job_memory=None if settings.job_memory_mib is None else settings.job_memory_mib * MIB,
    )


def host_memory(estimate: Mapping[str, Any] | None) -> int | None:
    """The machine's own memory that a job takes, in bytes; None: it is not known.

    A job on a GPU has its weights and activations there, and only the process itself here.
    """
    if not estimate or "memory" not in estimate:
        return None
    if estimate.get("device", "cpu") == "cpu":
        return int(estimate["memory"])
    return int(estimate["memory_parts"]["process"])


def memory_of(pid: int | None) -> int:
    """Bytes of memory that a process holds for itself, with those that it has started; 0 if there
    is none.

    Pages of files that it has mapped do not count, where the system tells them apart: they can be
    dropped, and a base model that is being read would count twice.
    """
    total = 0
    for each in () if pid is None else (pid, *descendants(pid)):
        with suppress(psutil.Error):
            held = psutil.Process(each).memory_info()
            total += int(held.rss - getattr(held, "shared", 0))
    return total


def cpu_seconds(pid: int | None) -> float:
    """Processor time that a process has had, with those that it has started and that live; 0 if
    there is none."""
    total = 0.0
    for each in () if pid is None else (pid, *descendants(pid)):
        with suppress(psutil.Error):
            times = psutil.Process(each).cpu_times()
            total += float(times.user + times.system)
    return total


def descendants(pid: int) -> list[int]:
    """The numbers of the processes that a process has started, and theirs."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def memory_kills() -> int:
    """How many processes the kernel has killed for lack of memory, as far as it tells."""
    total = 0
    for file in _COUNTERS:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total

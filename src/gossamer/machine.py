"""What this process may use of the machine: processors and memory, as limited by its container.

A container's limits are not in what the machine tells of itself: they stand in control groups,
which nest, so the smallest limit on the way from the process's own group to the top counts. Both
versions of Linux's control groups are read, also where they are mounted side by side; where there
are none, nothing is limited. Whatever chooses a default by the size of the machine asks here.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self")


def usable_cpus(proc: Path = _PROC) -> int:
    """Processors that this process can keep busy: its affinity, cut to its quota of time.

    A quota of one and a half processors is worth two threads: less would leave a part of it unused.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for group in _groups(proc, "cpu"):
        quota = group.cpu_quota()
        if quota is not None:
            count = min(count, max(1, -int(-quota // 1)))
    return count


def usable_memory(proc: Path = _PROC) -> int:
    """Bytes that this process may still take: what is free, and what each limit leaves.

    Of what a group holds, file pages that were not used lately count as free: the system drops
    them before it lets anyone run out of memory.
    """
    import psutil

    available = int(psutil.virtual_memory().available)
    left = (group.memory_left() for group in _groups(proc, "memory"))
    return min([available, *(number for number in left if number is not None)])


def total_memory(proc: Path = _PROC) -> int:
    """Bytes that this process could have at most: the machine's, cut to each limit on the way."""
    import psutil

    limits = (group.memory_limit() for group in _groups(proc, "memory"))
    total = int(psutil.virtual_memory().total)
    return min([total, *(number for number in limits if number is not None)])


def fit_threads(num_processes: int = 1) -> None:
    """Have torch use no more threads than there are usable processors; its own default may.

    Several processes that compute at the same time get a share each.

    torch counts the processors it may run on, and knows nothing of a quota of their time.
    """
    import torch

    count = max(1, usable_cpus() // num_processes)
    if torch.get_num_threads() > count:
        torch.set_num_threads(count)


@dataclass(frozen=True, slots=True)
class _Group:
    """The folder of one control group."""

    folder: Path
    unified: bool
    """Whether the group is of version 2, where one tree has all controllers."""

    def cpu_quota(self) -> float | None:
        """The processors' worth of time in each period; None: no limit."""
        if self.unified:
            quota, period = [*self._words("cpu.max"), "", ""][:2]
        else:
            quota, period = self._word("cpu.cfs_quota_us"), self._word("cpu.cfs_period_us")
        if not quota.isdigit() or not period.isdigit() or int(period) == 0:
            # "max", or -1: none.
            return None
        return int(quota) / int(period)

    def memory_limit(self) -> int | None:
        """Bytes that the group may take in all; None: no limit."""
        names = ("memory.max", "memory.high") if self.unified else ("memory.limit_in_bytes",)
        return min(
            (int(word) for name in names if (word := self._word(name)).isdigit()), default=None
        )

    def memory_left(self) -> int | None:
        """Bytes that the group may still take up to its limit; None: no limit."""
        limit = self.memory_limit()
        used = self._word("memory.current" if self.unified else "memory.usage_in_bytes")
        if limit is None or not used.isdigit():
            return None
        idle = self._statistic("inactive_file" if self.unified else "total_inactive_file")
        return max(0, limit - max(0, int(used) - idle))

    def _statistic(self, name: str) -> int:
        words = self._words("memory.stat")
        pairs = dict(zip(words[::2], words[1::2], strict=False))
        return int(pairs[name]) if pairs.get(name, "").isdigit() else 0

    def _word(self, name: str) -> str:
        return next(iter(self._words(name)), "")

    def _words(self, name: str) -> list[str]:
        try:
            return (self.folder / name).read_text().split()
        except OSError:
            return []


def _groups(proc: Path, controller: str) -> Iterator[_Group]:
    """The groups of this process that may limit `controller`, from its own to the top."""
    paths = _own_paths(proc)
    for mount, root, kind, options in _mounts(proc):
        unified = kind == "cgroup2"
        path = paths.get("" if unified else controller)
        if path is None or not (unified or controller in options):
            continue
        folder = _below(mount, root, path)
        yield _Group(folder, unified)
        if folder != mount:
            above = (parent for parent in folder.parents if parent.is_relative_to(mount))
            yield from (_Group(parent, unified) for parent in above)


def _own_paths(proc: Path) -> dict[str, str]:
    """This process's group for each controller of version 1, and under "" that of version 2."""
    paths: dict[str, str] = {}
    for line in _lines(proc / "cgroup"):
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths |= dict.fromkeys(parts[1].split(","), parts[2])
    return paths


def _mounts(proc: Path) -> Iterator[tuple[Path, str, str, list[str]]]:
    """Mount point, mounted group, file system and controllers of each tree of groups."""
    for line in _lines(proc / "mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) >= 5 and len(kinds) >= 3 and kinds[0] in ("cgroup", "cgroup2"):
            yield Path(_unescaped(fields[4])), _unescaped(fields[3]), kinds[0], kinds[2].split(",")


def _below(mount: Path, root: str, path: str) -> Path:
    """The folder of the group `path` in a tree of which the group `root` is mounted at `mount`.

    A container often sees its own group as the top of the tree, but under the name that it has
    outside; its folder is then the mount point itself.
    """
    if root != "/" and Path(path).is_relative_to(root):
        path = str(Path(path).relative_to(root))
    folder = mount / path.lstrip("/")
    return folder if ".." not in folder.parts and folder.is_dir() else mount


def _unescaped(text: str) -> str:
    # Blanks in paths of mountinfo are written as \040.
    return text.replace("\\040", " ")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

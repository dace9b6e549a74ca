"""Which process is meant, also after its number has been given to another one.

A process is known by its place (this start of the machine, and the space of process numbers that a
container may have to itself), its number there, and the moment at which it began. Of processes of
another place nothing can be told.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, ever."""

    place: str
    pid: int
    started: float
    """When it began: clock ticks since the machine's start on Linux, else seconds since 1970."""

    @classmethod
    def own(cls) -> "ProcessIdentity":
        """The identity of the process that asks."""
        pid = os.getpid()
        return cls(here(), pid, _started(pid) or 0.0)

    def has_ended(self) -> bool:
        """Whether it is known to be gone; False also where that cannot be known."""
        return self.is_here() and _started(self.pid) != self.started

    def is_here(self) -> bool:
        """Whether it is a process of this place."""
        return self.place == here()


def here() -> str:
    """This start of this machine, and the space of process numbers."""
    try:
        return f"{_BOOT.read_text().strip()} {os.readlink(_NAMESPACE)}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _started(pid: int) -> float | None:
    """When the process of that number began; None: there is none, or it only waits to be reaped."""
    try:
        # The name of the program, which may hold blanks, ends with the last bracket.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if words[0] in "ZX" else float(words[19])
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError, ValueError):
        pass
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def talking_to(module: str) -> "subprocess.Popen[str]":
    """Start a program of this package that answers line by line, reads no hub, and takes one
    processor; no signal of a terminal reaches it."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )

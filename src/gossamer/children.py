"""Starts the processes of the other ranks, and sees to it that none outlives its parent."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
END_SECONDS = 10.0
"""So long children that were told to end may take; then they are killed."""

STORE = "GOSSAMER_STORE"
"""The variable that names the file through which started processes meet."""
_PARENT = "GOSSAMER_PARENT"
"""The variable that tells a started process the process id of its parent."""
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}
"""Variables that keep what ranks on one machine say on that machine."""

OnExit = Callable[[int, int], None]
"""Told the rank and the exit code of a child that has ended."""


class Children:
    """Child processes, each with a thread that has started it and waits for its end."""

    def __init__(self, commands: Mapping[int, Sequence[str]], on_exit: OnExit) -> None:
        """commands: by rank; their environment is this process's with the rank and parent in it."""
        self._on_exit = on_exit
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._started = threading.Semaphore(0)
        self._failure: OSError | None = None
        # Linux tells a child of the end of the thread, not of the process, that has started it;
        # so it is one that lives as long as the child.
        self._threads = [
            threading.Thread(target=self._run, args=(rank, command), daemon=True)
            for rank, command in commands.items()
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._started.acquire()
        if self._failure is not None:
            self.kill()
            raise self._failure

    @property
    def pids(self) -> dict[int, int]:
        """Return the process ids by rank."""
        return {rank: process.pid for rank, process in self._processes.items()}

    def _run(self, rank: int, command: Sequence[str]) -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    _PARENT: str(os.getpid()),
                },
            )
        except OSError as error:
            self._failure = error
            self._started.release()
            return
        self._processes[rank] = process
        self._started.release()
        code = process.wait()
        self._on_exit(rank, code)

    def end(self, seconds: float = END_SECONDS) -> None:
        """Wait until all have ended by themselves; kill those that have not after `seconds`."""
        for thread in self._threads:
            thread.join(seconds)
        self.kill()

    def kill(self) -> None:
        """End those that still run."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(END_SECONDS)


def ignore_signals() -> None:
    """Leave signals to rank 0.

    A terminal's Ctrl-C and a supervisor's SIGTERM reach all processes at once, and rank 0 needs the
    others until it has drained a server or saved a run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def follow_parent() -> None:
    """Have this process killed when its parent ends; other signals do not end it.

    For processes that `Children` has started. Raises `SystemExit` if the parent has ended already.
    """
    ignore_signals()
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    # It may have ended before that. Who inherits a child is not always process 1, and process 1 may
    # be the parent itself, as in a container.
    if os.getppid() != int(os.environ[_PARENT]):
        raise SystemExit(1)


def ready_file(store: str, rank: int) -> Path:
    """Return the file by which a started process says that it is about to join."""
    return Path(f"{store}.ready-{rank}")


def say_ready() -> None:
    """Tell the parent that this process is about to join."""
    ready_file(os.environ[STORE], int(os.environ["RANK"])).touch()


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

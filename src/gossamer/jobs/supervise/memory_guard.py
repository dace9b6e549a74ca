"""Kills a worker that takes the machine's memory, before the kernel has to choose whom to kill.

The kernel would choose a worker too, which offers itself (`worker.surroundings`); but in some
containers it ends all processes at once, the server among them. So two limits hold here:

- No worker holds more than `job_memory_mib`, or more than the machine has beside the reserve.
- When hardly anything is free, a worker goes that holds more than its job was expected to take.
"""

import logging
import signal
import threading
from collections.abc import Mapping

from gossamer.jobs.queue.needs import size
from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.supervise.attend import Watch
from gossamer.jobs.supervise.room import measure, memory_of

log = logging.getLogger("gossamer.jobs")

LOOK_SECONDS = 0.2
"""Seconds between two looks: a process fills about a hundred MiB in that time."""

_HARDLY = 4
"""A machine on which less than this part of the reserve is free has hardly anything left."""


class MemoryGuard:
    """Looks at what workers hold, again and again in a thread between `start` and `stop`."""

    def __init__(self, settings: JobsSettings, watches: Mapping[tuple[str, int], Watch]) -> None:
        """`watches` are those of all workers; another thread may change them meanwhile."""
        self._settings = settings
        self._watches = watches
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="memory-guard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Kill each worker that holds more than it may."""
        watches = [watch for watch in list(self._watches.values()) if watch.pid is not None]
        if not watches:
            return
        room = measure(self._settings)
        most = room.most_memory
        is_scarce = room.memory_free < room.memory_reserve // _HARDLY
        for watch in watches:
            held = memory_of(watch.pid)
            watch.most_held = max(watch.most_held, held)
            expected = (watch.expected_memory or 0) * self._settings.memory_margin
            if held > most:
                _end(watch, f"the worker took more than {size(most, down=True)} of memory")
            elif is_scarce and held > expected:
                _end(watch, "the machine's memory was about to run out")

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("the memory of workers could not be looked at")


def _end(watch: Watch, why: str) -> None:
    if watch.has_ended() or watch.took_too_much:
        return
    watch.took_too_much = True
    watch.killed_for = why
    log.warning("process %s is killed: %s", watch.pid, why)
    watch.signal(signal.SIGKILL)

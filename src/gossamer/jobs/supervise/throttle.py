"""Stops workers for as long as requests run, where the settings want it (`jobs_share=pause`).

A stopped process computes nothing and forgets nothing, so losses are the same. It gives no sign of
life either; the supervisor lengthens its lease meanwhile. If it was stopped in the middle of a
transaction, that fails, and the supervisor lets it go on.
"""

import signal
import time
from collections.abc import Callable, Mapping

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore
from gossamer.jobs.supervise.attend import Watch

QUIET_SECONDS = 2.0
"""Seconds without a request after which training goes on."""


class Throttle:
    """Stops workers and lets them go on; `is_busy` tells whether requests run."""

    def __init__(
        self, store: JobStore, settings: JobsSettings, owner: str, is_busy: Callable[[], bool]
    ) -> None:
        self._store = store
        self._settings = settings
        self._owner = owner
        self._is_busy = is_busy
        self._quiet_from = -float("inf")

    def apply(self, watches: Mapping[tuple[str, int], Watch]) -> None:
        """Stop all workers, or let them go on; one that was asked to end must run to do so."""
        now = time.monotonic()
        is_busy = self._is_busy()
        if is_busy:
            self._quiet_from = now + QUIET_SECONDS
        wants_pause = is_busy or now < self._quiet_from
        for (job_id, attempt), watch in watches.items():
            if watch.pid is None:
                # It has not registered: its lease must be able to run out.
                continue
            if wants_pause and watch.stop_asked is None:
                if not watch.is_paused:
                    watch.signal(signal.SIGSTOP)
                    watch.is_paused = True
                until = time.time() + self._settings.lease_seconds
                self._store.attempts.hold(job_id, attempt, self._owner, lease_until=until)
            else:
                go_on(watch)


def go_on(watch: Watch) -> None:
    """Let a worker go on that was stopped."""
    if watch.is_paused:
        watch.is_paused = False
        watch.signal(signal.SIGCONT)

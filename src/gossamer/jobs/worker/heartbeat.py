"""The thread of a worker that keeps its lease.

Not the loop of steps: a step may take longer than any lease. When the job was lost, or no server
has watched for long, the run is asked to save and stop, by the signal of the supervisor.
"""

import logging
import os
import signal
import threading
import time

from gossamer.jobs.settings import JobsSettings
from gossamer.jobs.store import JobStore

log = logging.getLogger("gossamer.jobs")


class Heartbeat(threading.Thread):
    """Tells every few seconds that the worker lives."""

    def __init__(self, store: JobStore, settings: JobsSettings, job_id: str, attempt: int) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._store = store
        self._settings = settings
        self._job_id = job_id
        self._attempt = attempt
        self._over = threading.Event()
        self.is_orphan = False
        """Whether the run was stopped because no server has watched for long."""

    def run(self) -> None:
        """Beat until `stop`, or until the job is lost."""
        while not self._over.wait(self._settings.heartbeat_seconds):
            try:
                goes_on = self._beat()
            except Exception:
                # While the database is away, no one else can take the job either.
                log.exception("no sign of life could be given")
                continue
            if not goes_on:
                self._stop_run()
                return

    def stop(self) -> None:
        """End the thread; returns once it touches the database no more."""
        self._over.set()
        if self.is_alive():
            self.join()

    def _beat(self) -> bool:
        """Whether the run should go on."""
        until = time.time() + self._settings.lease_seconds
        if not self._store.attempts.beat(self._job_id, self._attempt, lease_until=until):
            log.warning("attempt %d has lost the job", self._attempt)
            return False
        supervisor = self._store.supervisor.get()
        watched = supervisor.lease_until if supervisor is not None else 0.0
        self.is_orphan = time.time() > watched + self._settings.orphan_seconds
        return not self.is_orphan

    def _stop_run(self) -> None:
        if not self._over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
